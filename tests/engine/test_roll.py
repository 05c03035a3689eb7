"""What is told from what is heard of a job's processes, without sockets and in no time."""

from collections.abc import Callable

import pytest

from ds_bert.engine.roll import Roll
from ds_bert.engine.watcher import update

SILENCE, ABSENCE, INTERVAL = 30.0, 1800.0, 1.0
Tell = Callable[[Roll, float], None]


def roll_of(size: int, known: int | None = None) -> Roll:
    """All processes of a job, of which the first ``known`` have come."""
    roll = Roll([f"rank {rank}" for rank in range(size)], "here", SILENCE, ABSENCE, INTERVAL, 0.0)
    for member in roll.members[: size if known is None else known]:
        member.known, member.host = True, "here"
    return roll


def play(roll: Roll, until: float, silent: set[int] | None = None, tell: Tell | None = None) -> tuple[float, str]:
    """Let all but the silent ones give signs of life; return when there was a verdict, and its words."""
    for tick in range(int(until * 4)):
        now = tick / 4
        for rank, member in enumerate(roll.members):
            if rank not in (silent or ()) and member.known and member.died is None:
                member.heard = now
                if now - member.spoke >= 1 and member.stopped is None and member.at != "deaf":
                    update(member, {"steps": 5, "at": member.at}, now)
                    member.spoke = now
        if tell:
            tell(roll, now)
        if verdict := roll.verdict(now):
            return now, verdict.text
    return until, ""


@pytest.mark.parametrize("size", [2, 3, 16])
@pytest.mark.parametrize("dead", [{0}, {1}, {0, 1}])
def test_all_that_die_together_are_named_at_once(size: int, dead: set[int]) -> None:
    def die(roll: Roll, now: float) -> None:
        if now == 10:
            for rank in dead:
                update(roll.members[rank], {"died": True}, now)

    when, text = play(roll_of(size), 100, tell=die)
    assert 10 < when <= 10.5
    assert text == " and ".join(f"rank {rank}, after step 5," for rank in sorted(dead)) + " died"


@pytest.mark.parametrize("silent", [{1}, {1, 2}, {0}])
def test_silence_is_given_up_after_the_limit(silent: set[int]) -> None:
    when, text = play(roll_of(4), 100, silent)
    assert SILENCE < when <= SILENCE + 0.5
    assert text.count("after step") == len(silent) and text.endswith("has not answered for 30 s")


@pytest.mark.parametrize(("limit", "known"), [(ABSENCE, 3), (SILENCE, 4)])
def test_one_that_has_not_come_yet_is_waited_for_as_long_as_for_a_slow_one(limit: float, known: int) -> None:
    when, text = play(roll_of(4, known), 2000, silent={3})
    assert limit < when <= limit + 0.5 and text.startswith("rank 3,") and text.endswith(f"for {limit:g} s")


@pytest.mark.parametrize("stopped", [{0}, {2}, {0, 1}, {0, 1, 2}])
def test_a_stopped_process_is_given_up_unless_all_are_stopped(stopped: set[int]) -> None:
    def stop(roll: Roll, now: float) -> None:
        for rank in stopped:  # continued one after the other, much later
            is_stopped = 10 <= now < 200 + rank
            update(roll.members[rank], {"quiet": 0.0, "stopped": now - 10 if is_stopped else None}, now)

    when, text = play(roll_of(3), 300, tell=stop)
    if len(stopped) == 3:
        assert (when, text) == (300, "")
    else:
        assert 10 + SILENCE < when <= 10 + SILENCE + 0.5 and text.count("after step") == len(stopped)


def fails(roll: Roll, rank: int, waited: bool, now: float, text: str = "no space left") -> None:
    update(roll.members[rank], {"failure": text, "waited": waited}, now)


def test_a_failure_is_explained_by_what_caused_it() -> None:
    """Of two that fail, the one that did not wait is the cause; a death that is known later explains both."""

    def two_fail(roll: Roll, now: float) -> None:
        if now == 10:
            fails(roll, 0, True, now, "connection closed")
        if now == 10.25:
            fails(roll, 1, False, now)

    assert play(roll_of(3), 100, tell=two_fail) == (10.75, "rank 1 failed: no space left")

    def and_one_dies(roll: Roll, now: float) -> None:
        two_fail(roll, now)
        if now == 10.5:
            update(roll.members[2], {"died": True}, now)

    assert play(roll_of(3), 100, tell=and_one_dies) == (10.75, "rank 2, after step 5, died")


@pytest.mark.parametrize(
    ("at", "spoke", "words"),
    [
        ("file.py, line 7 (read)", True, "rank 2, after step 5, hangs in file.py, line 7 (read)"),
        ("deaf", False, "rank 2, after step 0, hangs in a call that keeps Python's lock"),
        ("", True, "rank 0 failed: timed out"),
    ],
)
def test_who_is_waited_for_in_vain_is_named_with_its_line(at: str, spoke: bool, words: str) -> None:
    def hang(roll: Roll, now: float) -> None:
        roll.members[2].at = at if spoke else "deaf" if now > 0 else ""
        if not spoke:
            roll.members[2].busy = None
        if now == ABSENCE + 10:
            fails(roll, 0, True, now, "timed out")

    when, text = play(roll_of(3), ABSENCE + 100, tell=hang)
    assert ABSENCE + 10 < when <= ABSENCE + 13 and text == words


def test_one_that_computes_is_not_taken_for_hanging_when_another_fails() -> None:
    def work(roll: Roll, now: float) -> None:
        roll.members[2].at = "layer.py, line 7 (forward)" if int(now) % 20 else ""
        if now == 990:
            fails(roll, 0, True, now, "out of memory")

    assert play(roll_of(3), ABSENCE, tell=work)[1] == "rank 0 failed: out of memory"


@pytest.mark.parametrize("refusal", [None, "map.json: no such file"])
@pytest.mark.parametrize("others_leave", [False, True])
def test_leaving_alarms_nobody_but_a_mistake_that_others_do_not_meet(refusal: str | None, others_leave: bool) -> None:
    def leave(roll: Roll, now: float) -> None:
        if now == 10 or (others_leave and now == 12):
            for member in roll.members[:1] if now == 10 else roll.members:
                update(member, {"left": refusal}, now)

    when, text = play(roll_of(3), 100, silent={0}, tell=leave)
    if refusal and not others_leave:
        assert 20 < when <= 20.5 and text == "rank 0 failed: map.json: no such file"
    else:
        assert text == ""


def test_who_has_left_is_named_to_those_that_wait_for_it() -> None:
    def leave(roll: Roll, now: float) -> None:
        if now == 10:
            update(roll.members[1], {"left": None}, now)
        if now == 11:
            fails(roll, 0, True, now, "connection closed")

    assert play(roll_of(3), 100, tell=leave)[1] == "rank 1, after step 5, has left the job"


@pytest.mark.parametrize("gap", [10.0, 1000.0])
def test_who_keeps_the_roll_forgives_the_time_when_it_heard_nobody_itself(gap: float) -> None:
    roll = roll_of(3)
    roll.forgive(gap)
    assert roll.verdict(gap + 1) is None
    assert roll.verdict(gap + SILENCE + 1)


def test_other_machines_are_named() -> None:
    roll = roll_of(2)
    update(roll.members[1], {"host": "there", "died": True, "steps": 3}, 1.0)
    verdict = roll.verdict(2.0)
    assert verdict and verdict.text == "rank 1 on there, after step 3, died"
