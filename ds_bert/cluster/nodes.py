"""Ask nodes, over ssh and all at once, what they have; every difference between them is a sentence."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_bert.cluster.hostfile import Hostfile

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


def differences(hostfile: Hostfile, reports: Sequence[Report], files: Mapping[str, str], needed: set[str]) -> list[str]:
    """Name all that would keep a job on these nodes from starting or from being the same job everywhere.

    Args:
        hostfile: the nodes.
        reports: what each of them has.
        files: ``{path: the argument that names it}``.
        needed: the paths that must exist; the others may be names of something else.
    """
    return [
        *_versions(hostfile.names, reports),
        *_files(hostfile.names, reports, files, needed),
        *_devices(hostfile, reports),
    ]


def _versions(names: Sequence[str], reports: Sequence[Report]) -> list[str]:
    versions = {"Python": [report.python for report in reports]} | {
        package: [report.packages[package] for report in reports] for package in reports[0].packages
    }
    found = [f"{what} is {said}" for what, values in versions.items() if (said := _unlike(names, values))]
    if not found and len({report.code for report in reports}) > 1:
        groups = _groups(names, [report.code for report in reports])
        found = [f"the code of ds_bert differs between {' and '.join(groups.values())}"]
    found += [
        f"{package} is not installed on any node"
        for package, values in versions.items()
        if values == [None] * len(values) and package != "ds_bert"
    ]
    return [f"{sentence}, needed is the same on all nodes" for sentence in found]


def _files(names: Sequence[str], reports: Sequence[Report], files: Mapping[str, str], needed: set[str]) -> list[str]:
    faults = []
    for path, argument in files.items():
        digests = [report.files[path] for report in reports]
        missing = [name for name, digest in zip(names, digests, strict=True) if digest is None]
        if len(missing) == len(names) and path not in needed:
            continue
        if missing:
            faults.append(f"{argument}: {path} is not on {_and(missing)}, needed is the same path on all nodes")
        elif len(set(digests)) > 1:
            groups = _groups(names, digests)
            faults.append(
                f"{argument}: {path} differs between {' and '.join(groups.values())}, needed is the same file"
            )
    return faults


def _devices(hostfile: Hostfile, reports: Sequence[Report]) -> list[str]:
    """A node has fewer GPUs than slots; where no node has any, the job is one for processors."""
    if not any(report.gpus for report in reports):
        return []
    return [
        f"{name} has {slots} slots in {hostfile.path} but {report.gpus} GPUs, needed are no more slots than GPUs"
        for name, slots, report in zip(hostfile.names, hostfile.slots, reports, strict=True)
        if report.gpus < slots
    ]


def _unlike(names: Sequence[str], values: Sequence[str | None]) -> str:
    """Say which nodes have which value, "" where all have the same: "2.13.0 on node0 but missing on node1"."""
    groups = _groups(names, values)
    if len(groups) == 1:
        return ""
    return " but ".join(f"{'missing' if value is None else value} on {nodes}" for value, nodes in groups.items())


def _groups(names: Sequence[str], values: Sequence[str | None]) -> dict[str | None, str]:
    """The nodes that share each value, in words."""
    groups: dict[str | None, list[str]] = {}
    for name, value in zip(names, values, strict=True):
        groups.setdefault(value, []).append(name)
    return {value: _and(members) for value, members in groups.items()}


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
