"""How another number of replicas keeps a global batch: the micro-batches, or their size, that make up for it."""

from math import gcd

from ds_bert.stage_map import StageMap
from ds_bert.training.arguments import TrainingArguments


def how_to_keep(global_batch: int, arguments: TrainingArguments, stage_map: StageMap) -> str:
    """Say which arguments make a global batch of so many examples on this map.

    That is another number of micro-batches, if one will do; else also micro-batches of another size, the nearest
    smaller and larger one that will; else the nearest numbers of replicas.

    Example: 24 examples in micro-batches of 4. 2 replicas take 3 micro-batches each. With 4 replicas, the 6 examples of
    each are 2 micro-batches of 3, or 1 of 6. With 5, there is no way; with 4 or 6 there is.
    """
    replicas, size = stage_map.num_replicas, arguments.per_device_train_batch_size
    fewest = stage_map.num_stages if arguments.schedule == "2bw" else 1  # micro-batches, see `check_schedule`
    in_flight = getattr(arguments, "tasks_in_flight", 0)  # in meta-training, where a micro-batch is always one task
    fitting = _micro_batches(global_batch, replicas, fewest, one_each=bool(in_flight))
    if size in fitting:
        steps = fitting[size]
        turns = f" and --tasks_in_flight {gcd(steps, in_flight)}" if in_flight and steps % in_flight else ""
        return f"with --gradient_accumulation_steps {steps}{turns} it is"
    if fitting:
        ways = [
            f"--per_device_train_batch_size {near} --gradient_accumulation_steps {fitting[near]}"
            for near in _nearest(size, list(fitting))
        ]
        return (
            f"no --gradient_accumulation_steps makes it so with micro-batches of {size}; with {' or '.join(ways)} it is"
        )
    others = range(1, global_batch // fewest + 1)
    possible = [other for other in others if _micro_batches(global_batch, other, fewest, one_each=bool(in_flight))]
    count = f"{replicas} replica{'s' * (replicas > 1)}"
    if not possible:
        return f"nothing makes it so under {arguments.schedule} on {stage_map.num_stages} stages; cut into fewer stages"
    return f"nothing makes it so on {count}; use a map of {' or '.join(map(str, _nearest(replicas, possible)))}"


def _micro_batches(global_batch: int, replicas: int, fewest: int, one_each: bool) -> dict[int, int]:
    """{examples of a micro-batch: micro-batches} of the ways to divide a replica's share of the global batch."""
    share, rest = divmod(global_batch, replicas)
    sizes = (1,) if one_each else range(1, share + 1)
    return {} if rest else {size: share // size for size in sizes if share % size == 0 and share // size >= fewest}


def _nearest(value: int, choices: list[int]) -> list[int]:
    """The largest choice below and the smallest above, where there are such."""
    below, above = [choice for choice in choices if choice < value], [choice for choice in choices if choice > value]
    return [*below[-1:], *above[:1]]
