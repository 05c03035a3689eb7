"""1F1B for every small pipeline, run by a second, simpler machine: one event after another."""

from collections import deque

import pytest

from ds_bert.schedules.schedule import (
    Backward,
    Forward,
    Instruction,
    ReceiveActivation,
    ReceiveGradient,
    SendActivation,
    SendGradient,
    instructions,
    one_f_one_b,
)

SENDS = {SendActivation: (1, ReceiveActivation), SendGradient: (-1, ReceiveGradient)}


def _programs(stages: int, micro_batches: int) -> list[list[Instruction]]:
    return [list(instructions(one_f_one_b(stage, stages, micro_batches), stage, stages)) for stage in range(stages)]


def _numbers(program: list[Instruction], kind: type[Instruction]) -> list[int]:
    return [instruction.micro_batch for instruction in program if type(instruction) is kind]


def _run(programs: list[list[Instruction]], forward: float, backward: float) -> tuple[float, list[float]]:
    """Execute with blocking receives and free communication; return (end, busy time of each stage).

    Fails on a deadlock, and on a message that is not the one waited for.
    """
    waiting = [deque(program) for program in programs]
    clocks, busy = [0.0] * len(programs), [0.0] * len(programs)
    wires: dict[tuple[int, type[Instruction]], deque[tuple[int, float]]] = {}
    progress = True
    while progress:
        progress = False
        for stage, program in enumerate(waiting):
            while program:
                step = program[0]
                if type(step) in SENDS:
                    to, kind = SENDS[type(step)]
                    wires.setdefault((stage + to, kind), deque()).append((step.micro_batch, clocks[stage]))
                elif isinstance(step, Forward | Backward):
                    cost = forward if isinstance(step, Forward) else backward
                    clocks[stage], busy[stage] = clocks[stage] + cost, busy[stage] + cost
                else:
                    wire = wires.get((stage, type(step)))
                    if not wire:
                        break
                    micro_batch, sent = wire.popleft()
                    assert micro_batch == step.micro_batch
                    clocks[stage] = max(clocks[stage], sent)
                program.popleft()
                progress = True
    assert not any(waiting), "deadlock"
    assert not any(wires.values()), "a message nobody received"
    return max(clocks), busy


@pytest.mark.parametrize("stages", range(1, 9))
def test_every_pipeline_runs(stages: int) -> None:
    for micro_batches in range(1, 33):
        _check(stages, micro_batches)


def _check(stages: int, micro_batches: int) -> None:
    programs = _programs(stages, micro_batches)
    everything = list(range(micro_batches))
    for stage, program in enumerate(programs):
        assert _numbers(program, Forward) == everything and _numbers(program, Backward) == everything
        first, last = stage == 0, stage == stages - 1
        assert _numbers(program, ReceiveActivation) == _numbers(program, SendGradient) == ([] if first else everything)
        assert _numbers(program, SendActivation) == _numbers(program, ReceiveGradient) == ([] if last else everything)
        in_flight, most = 0, 0
        for step in program:
            in_flight += isinstance(step, Forward) - isinstance(step, Backward)
            most = max(most, in_flight)
        assert most == min(stages - stage, micro_batches)
    end, busy = _run(programs, forward=1.0, backward=2.0)
    assert busy == [3.0 * micro_batches] * stages
    assert 1 - busy[0] / end == pytest.approx((stages - 1) / (micro_batches + stages - 1))


@pytest.mark.parametrize("stages, micro_batches", [(2, 4), (8, 8), (4, 32)])
def test_the_simulator_sees_a_deadlock(stages: int, micro_batches: int) -> None:
    programs = _programs(stages, micro_batches)
    stuck = programs[0]
    last_send = max(index for index, step in enumerate(stuck) if isinstance(step, SendActivation))
    stuck.append(stuck.pop(last_send))
    with pytest.raises(AssertionError, match="deadlock"):
        _run(programs, 1.0, 2.0)
