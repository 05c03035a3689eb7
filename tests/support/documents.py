"""Documents whose blocks are run as they stand, one after another in one folder, as a reader would."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.jobs import REPOSITORY
from tests.support.session import LAUNCHERS


@dataclass(frozen=True)
class Block:
    """What stands between two lines of backticks: its language, "" for the shell's, and its text."""

    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    """The blocks of a document, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(language, text) for language, text in found]


def run(blocks: list[Block], folder: Path, timeout: float = 600) -> str:
    """Run blocks of the shell and of Python in ``folder``; return what they print.

    The folder looks like the checkout's root: it has `pipelines/`, `docs/` and `ds_configs/`. A block that fails fails
    the test with what it printed.
    """
    for name in ("pipelines", "docs", "ds_configs"):
        if not (folder / name).exists():
            (folder / name).symlink_to(REPOSITORY / name)
    places = [str(Path(sys.executable).parent), os.environ["PATH"]]
    cache = {"XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **cache, "PATH": os.pathsep.join(places), "PYTHONPATH": str(REPOSITORY)}
    environment = {name: value for name, value in environment.items() if name not in LAUNCHERS}
    printed = ""
    for block in blocks:
        program = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
        ended = subprocess.run(
            [*program, block.text], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
        )
        assert ended.returncode == 0, f"{block.text}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
        printed += ended.stdout
    return printed
