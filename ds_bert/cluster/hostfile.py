"""The hostfile, as the `deepspeed` launcher reads it: a line ``NAME slots=NUMBER`` for every node."""

import re
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from ds_bert.errors import UserError
from ds_bert.files import read_text
from ds_bert.stage_map import StageMap

_LINE = re.compile(r"(\S+)\s+slots=(\d+)\s*(#.*)?")


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
    """Read a hostfile; blank lines and those that begin with ``#`` are skipped.

    Raises:
        UserError: the file is missing, or has a line of another form, a node twice or none at all.
    """
    try:
        lines = read_text(Path(path)).splitlines()
    except UserError as error:
        raise UserError(f"{error}; needed is a hostfile with a line `NAME slots=NUMBER` for each node") from None
    nodes: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or not int(match[2]):
            raise UserError(f"{path}: line {number}: found {line!r}, needed is a node as in `node0 slots=8`")
        if match[1] in nodes:
            raise UserError(f"{path}: line {number}: {match[1]} stands there twice, needed is one line for each node")
        nodes[match[1]] = int(match[2])
    if not nodes:
        raise UserError(f"{path}: names no node, needed is a line as in `node0 slots=8` for each")
    return Hostfile(str(path), tuple(nodes), tuple(nodes.values()))


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
