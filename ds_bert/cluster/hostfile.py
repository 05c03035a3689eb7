"""The hostfile, as the `deepspeed` launcher reads it: a line ``NAME slots=NUMBER`` for every node."""

import codecs
import io
import re
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from ds_bert.errors import UserError
from ds_bert.files import read_text
from ds_bert.stage_map import StageMap

_LINE = re.compile(r"(\S+)\s+slots=(\d+)")  # what follows, such as MPI's max_slots=4, the launcher does not look at


@dataclass(frozen=True)
class Hostfile:
    """The nodes of a job, in the order in which the launcher numbers their ranks."""

    path: str
    names: tuple[str, ...]
    slots: tuple[int, ...]
    """Processes that the launcher starts on each node."""

    @property
    def num_slots(self) -> int:
        """Slots of all nodes: the number of ranks that are started."""
        return sum(self.slots)

    @property
    def node_of_rank(self) -> tuple[int, ...]:
        """For each launcher rank the number of its node: the first node's slots come first."""
        return tuple(node for node, slots in enumerate(self.slots) for _ in range(slots))

    def ranks(self, node: int) -> range:
        """Return the launcher ranks of a node."""
        ends = list(accumulate(self.slots))
        return range(ends[node] - self.slots[node], ends[node])


def load_hostfile(path: str | Path) -> Hostfile:
    """Read a hostfile; blank lines and those that begin with ``#`` are skipped, and what follows the slots is not read.

    A node with ``slots=0`` keeps its place in the order, without ranks.

    Raises:
        UserError: the file is missing or no plain text, or has a line of another form, a node twice or none at all.
    """
    nodes: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, _lines(Path(path))), start=1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise UserError(f"{path}: line {number}: found {line!r}, needed is a node as in `node0 slots=8`")
        name, slots = match.groups()
        if name in nodes:
            raise UserError(f"{path}: line {number}: {name} stands there twice, needed is one line for each node")
        try:
            nodes[name] = int(slots)
        except ValueError:  # thousands of digits
            raise UserError(f"{path}: line {number}: the number of slots has {len(slots)} digits") from None
    if not nodes:
        raise UserError(f"{path}: names no node, needed is a line as in `node0 slots=8` for each")
    return Hostfile(str(path), tuple(nodes), tuple(nodes.values()))


def _lines(path: Path) -> list[str]:
    """Return the lines as the launcher sees them, which takes a byte order mark for a part of the first name."""
    needed = "needed is a hostfile with a line `NAME slots=NUMBER` for each node"
    try:
        text = read_text(path)
        with open(path, "rb") as file:
            head = file.read(3)
    except UserError as error:
        raise UserError(f"{error}; {needed}") from None
    if head == codecs.BOM_UTF8 or head.startswith(b"\x1f\x8b"):
        found = "begins with a byte order mark" if head == codecs.BOM_UTF8 else "is compressed by gzip"
        raise UserError(f"{path}: {found}, which the launcher cannot read; {needed}, as plain text")
    # as a file's lines are told apart: splitlines() would also break them at form feeds and the like
    return io.StringIO(text, newline=None).readlines()


def check_slots(hostfile: Hostfile, stage_map: StageMap, source: str) -> None:
    """Refuse a hostfile that would start another number of processes than the map has ranks.

    Raises:
        UserError: fewer slots than ranks, or more.
    """
    slots, ranks = hostfile.num_slots, stage_map.world_size
    if slots < ranks:
        raise UserError(f"{hostfile.path}: {slots} slots are fewer than the {ranks} ranks of {source}")
    if slots > ranks:
        raise UserError(
            f"{source}: is for {ranks} ranks, but {hostfile.path} has {slots} slots, each of which starts one; "
            f"needed is a map for {slots} ranks, or fewer slots"
        )
