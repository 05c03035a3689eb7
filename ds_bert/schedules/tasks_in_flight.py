"""1F1B over the passes of several tasks, each of which waits for its own last pass only."""

from collections.abc import Iterator

from ds_bert.schedules.instructions import Backward, Forward


def tasks_in_flight(stage: int, num_stages: int, passes: int, tasks: int) -> Iterator[Forward | Backward]:
    """Order passes on ``stage``, the tasks taking turns: pass u may begin once pass u - ``tasks`` has had its backward.

    Stage s runs ``min(p - 1 - s, tasks - 1)`` forwards ahead. With at least as many tasks as stages, no stage of an
    even cut waits after the first passes: a task's serial steps are filled with the others'. One task alone leaves
    all stages but one idle.
    """
    warmup = min(num_stages - 1 - stage, tasks - 1)
    for number in range(passes):
        yield Forward(number)
        if number >= warmup:
            yield Backward(number - warmup)
    for number in range(max(0, passes - warmup), passes):
        yield Backward(number)
