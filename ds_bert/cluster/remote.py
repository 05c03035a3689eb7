"""Ask nodes, over ssh and all at once, what they have."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PATIENCE = 600.0  # seconds for the answer of a node that was reached: it reads its files
_UNREACHED = 255  # ssh's own exit status
_PROBE = Path(__file__).with_name("probe.py")


@dataclass(frozen=True)
class Report:
    """What `ds_bert.cluster.probe` found on one node; the fields are those of its `look`."""

    python: str
    packages: dict[str, str | None]
    code: str | None
    files: dict[str, str | None]
    gpus: int
    interface: str
    address: str


class Unanswered(str):
    """Why a node has not answered, in words."""


def ask_nodes(
    names: Sequence[str],
    packages: Sequence[str],
    files: Sequence[str],
    connect_timeout: int,
    ssh_port: int | None = None,
) -> list[Report | Unanswered]:
    """Look at all nodes with the Python that runs this, in this folder, as the `deepspeed` launcher does.

    Args:
        names: hosts, as ssh knows them.
        packages: whose versions to report.
        files: paths, relative ones to this folder.
        connect_timeout: seconds to wait for a connection.
        ssh_port: of the nodes; None: ssh's own choice.
    """
    request = json.dumps({"packages": list(packages), "files": list(files)})
    here = os.getcwd()
    command = [f"PYTHONPATH={shlex.quote(here)}:$PYTHONPATH", shlex.quote(sys.executable), "-", shlex.quote(request)]
    remote = f"cd {shlex.quote(here)} && {' '.join(command)}"
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={connect_timeout}"]
    options += ["-p", str(ssh_port)] if ssh_port else []
    with ThreadPoolExecutor(max_workers=64) as pool:
        return list(pool.map(lambda name: _ask(["ssh", *options, name, remote]), names))


def _ask(command: list[str]) -> Report | Unanswered:
    try:
        with open(_PROBE, "rb") as text:
            ended = subprocess.run(command, stdin=text, capture_output=True, text=True, timeout=_PATIENCE)
    except FileNotFoundError:
        return Unanswered("there is no ssh on this machine")
    except subprocess.TimeoutExpired:
        return Unanswered(f"no answer within {_PATIENCE:g} s")
    if ended.returncode == 0:
        fields: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])  # a login may print lines of its own
        return Report(**fields)
    said = (ended.stderr.strip().splitlines() or ["nothing was said"])[-1].strip()
    if ended.returncode == _UNREACHED:
        return Unanswered(f"cannot be reached with ssh: {said}")
    return Unanswered(f"{sys.executable} cannot look at it: {said}")
