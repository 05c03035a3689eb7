"""Who of a job's processes is still there, and, once the job must end, why: from what their watchers tell.

Nothing here knows a socket or a clock: times are handed in, so that every rule can be tried in no time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_TOGETHER = 0.2  # seconds in which a node that dies takes all its processes
_CAUSE = 0.5  # seconds for the death that made a process fail to become known
_COURTESY = 10.0  # seconds for all to find the user's mistake that one has found, and for launchers to act on it


@dataclass(frozen=True)
class Verdict:
    """Why the job ends, for people, and the rank that failed, if it is that one's own failure."""

    text: str
    failed: int | None = None


@dataclass
class Member:
    """One process, as its watcher tells of it. Times are seconds of the clock of whoever keeps the roll."""

    name: str
    heard: float  # when its watcher was heard last
    spoke: float  # when its own thread was heard last, which needs Python's lock
    host: str = ""
    known: bool = False  # whether its watcher has come
    steps: int = 0
    at: str = ""  # the line of its own work; "" while it waits for others
    busy: float | None = None  # since when it has been at work of its own, without a wait that was noticed
    stopped: float | None = None  # since when it has been stopped, as by SIGSTOP
    left: float | None = None
    refusal: str | None = None  # the user's mistake because of which it left
    died: float | None = None
    failed: float | None = None
    failure: str = ""
    waited: bool = False  # whether it failed while it waited for others

    @property
    def is_expected(self) -> bool:
        """Whether it has neither left nor said that it failed."""
        return self.left is None and self.failed is None


def describe(member: Member, here: str = "") -> str:
    """Name a process, its machine unless that is ``here``, and its steps."""
    place = f" on {member.host}" if member.host not in ("", here) else ""
    return f"{member.name}{place}, after step {member.steps},"


class Roll:
    """All processes of a job.

    Args:
        names: of the processes, by rank.
        here: the machine that need not be named.
        silence: seconds without a sign of life after which a process is given up.
        absence: the same for one whose watcher has not come yet.
        interval: seconds between two signs of life.
        now: the time.
    """

    def __init__(
        self, names: Sequence[str], here: str, silence: float, absence: float, interval: float, now: float
    ) -> None:
        self.members = [Member(name, now, now) for name in names]
        self._here, self._silence, self._absence, self._interval = here, silence, absence, interval
        self._suspended = now  # when all were last stopped

    @property
    def all_gone(self) -> bool:
        """Whether every process has left or died."""
        return all(member.left is not None or member.died is not None for member in self.members)

    def is_silent(self, rank: int, now: float) -> bool:
        """Whether a process's watcher has not been heard for as long as is waited for it."""
        return now > self.members[rank].heard + self._silence

    def forgive(self, seconds: float) -> None:
        """Leave out a time in which whoever keeps the roll was stopped itself, and could hear nobody."""
        for member in self.members:
            member.heard += seconds
            member.spoke += seconds
            if member.stopped is not None:
                member.stopped += seconds
            if member.busy is not None:
                member.busy += seconds

    def verdict(self, now: float) -> Verdict | None:
        """Say why the job must end, if it must: what explains most comes first.

        Where all processes are stopped, somebody did it on purpose, as by Ctrl-Z: that time does not count.
        """
        if all(member.stopped is not None for member in self.members):
            self._suspended = now
        return (
            self._death(now)
            or self._failure(now)
            or self._silent_ones(now)
            or self._waiting_in_vain(now)
            or self._refusal(now)
        )

    def _death(self, now: float) -> Verdict | None:
        dead = [member for member in self.members if member.died is not None and member.is_expected]
        if not dead or now < min(member.died or 0.0 for member in dead) + _TOGETHER:
            return None
        return Verdict(f"{self._describe(dead)} died")

    def _failure(self, now: float) -> Verdict | None:
        return self._first_failure(now - _CAUSE, waited=False)

    def _silent_ones(self, now: float) -> Verdict | None:
        present = [member for member in self.members if member.is_expected and member.died is None]
        late = [member for member in present if self._is_late(member, now)]
        if not late:
            return None
        limit = self._silence if any(member.known for member in late) else self._absence
        together = [member for member in present if self._is_late(member, now + 2 * self._interval)]
        return Verdict(f"{self._describe(together)} has not answered for {limit:g} s")

    def _waiting_in_vain(self, now: float) -> Verdict | None:
        """Say whom a process waited for that gave up waiting: it cannot know itself."""
        failed = self._first_failure(now - 1.5 * self._interval - _CAUSE, waited=True)
        if failed is None:
            return None
        since = now - 3 * self._interval
        missing = [member for member in self.members if member.failed is None]
        if silent := [member for member in missing if member.left is None and self._silent_since(member) < since]:
            seconds = now - max(map(self._silent_since, silent))
            return Verdict(f"{self._describe(silent)} has not answered for {seconds:.0f} s")
        if gone := [member for member in missing if member.left is not None]:
            return Verdict(f"{self._describe(gone)} has left the job")
        long_ago = now - self._absence / 2  # those at work like all others wait now and then
        hanging = []
        for member in missing:
            if member.at and member.busy is not None and member.busy < long_ago:
                hanging.append(f"{describe(member, self._here)} hangs in {member.at}")
            elif member.spoke < long_ago:
                hanging.append(f"{describe(member, self._here)} hangs in a call that keeps Python's lock")
        return Verdict(" and ".join(hanging)) if hanging else failed

    def _refusal(self, now: float) -> Verdict | None:
        for rank, member in enumerate([] if self.all_gone else self.members):
            if member.left is not None and member.refusal is not None and now > member.left + _COURTESY:
                return Verdict(f"{member.name} failed: {member.refusal}", rank)
        return None

    def _first_failure(self, before: float, waited: bool) -> Verdict | None:
        failures = [
            (member.failed, rank)
            for rank, member in enumerate(self.members)
            if member.failed is not None and member.failed <= before and member.waited == waited
        ]
        if not failures:
            return None
        rank = min(failures)[1]
        return Verdict(f"{self.members[rank].name} failed: {self.members[rank].failure}", rank)

    def _silent_since(self, member: Member) -> float:
        """When a process was last known to run."""
        since = member.heard if member.stopped is None else min(member.heard, member.stopped)
        return max(since, self._suspended)

    def _is_late(self, member: Member, now: float) -> bool:
        return self._silent_since(member) < now - (self._silence if member.known else self._absence)

    def _describe(self, members: Sequence[Member]) -> str:
        return " and ".join(describe(member, self._here) for member in members)
