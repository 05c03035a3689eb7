"""`ds-bert stage-map`: make, check or show a stage map."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ds_bert.cluster.hostfile import check_slots, load_hostfile
from ds_bert.cluster.traffic import describe_links, place_ranks, traffic_between, volumes_of_step
from ds_bert.errors import UserError
from ds_bert.files import find_config, read_json
from ds_bert.modeling.config import load_model_config
from ds_bert.modeling.costs import LayerCost, default_predictions, layer_costs, stage_memory, stage_parameters
from ds_bert.modeling.heads import trainable_heads
from ds_bert.stage_map import StageMap, load_stage_map, make_stage_map, require_ascending, to_json
from ds_bert.stage_map_faults import MODULES
from ds_bert.terminal import table

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions ``make``, ``check`` and ``show``."""
    actions = parser.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    make = _add_action(actions, "make", _make, "print a balanced stage map as JSON")
    cut = make.add_argument_group("cut")
    cut.add_argument("--stages", type=int, required=True, help="stages of the pipeline")
    cut.add_argument("--replicas", type=int, help="copies of the pipeline (default: 1, or as --hostfile has slots for)")
    cut.add_argument(
        "--balance",
        choices=("flops", "parameters", "layers"),
        default="flops",
        help="what the fullest stage has the least of; layers: encoder layers",
    )
    cut.add_argument(
        "--placement",
        choices=("stage", "replica"),
        default="stage",
        help="whose ranks are neighbours: a stage's replicas or a replica's stages",
    )
    cut.add_argument(
        "--hostfile", metavar="PATH", help="place the ranks so that its nodes exchange the fewest bytes; say how many"
    )
    _add_workload(make)
    check = _add_action(actions, "check", _check, "say whether a stage map can be used, or name all that is wrong")
    _add_map(check)
    check.add_argument("--world_size", type=int, help="processes that will be started")
    show = _add_action(actions, "show", _show, "print what each stage of a map computes and holds")
    _add_map(show)
    _add_workload(show)


def run(arguments: argparse.Namespace) -> None:
    """Do the chosen action."""
    arguments.do(arguments)


def _add_action(actions: Any, name: str, do: Any, summary: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=summary, description=summary)
    model = parser.add_argument_group("model")
    model.add_argument("--config_name", required=True, metavar="PATH", help="a folder, a JSON file or a shipped name")
    model.add_argument("--config_overrides", help="other values for some of its keys: num_hidden_layers=4")
    parser.set_defaults(do=do)
    return parser


def _add_map(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("map", metavar="MAP", help="stage map: a JSON file or a shipped name")


def _add_workload(parser: argparse.ArgumentParser) -> None:
    work = parser.add_argument_group("what is computed")
    work.add_argument("--max_seq_length", type=int, default=128, help="tokens of a sequence")
    work.add_argument("--head", choices=trainable_heads(), default="pretraining", help="the last layer")
    work.add_argument("--per_device_train_batch_size", type=int, default=8, help="sequences of a micro-batch")
    work.add_argument("--gradient_accumulation_steps", type=int, default=1, help="micro-batches of a step, m")
    work.add_argument("--zero_stage", type=int, choices=(0, 1), default=0, help="ZeRO stage")
    work.add_argument("--bf16", action="store_true", help="bfloat16 weights and activations instead of fp32")


def _make(arguments: argparse.Namespace) -> None:
    layers = _layer_costs(arguments)
    weights = {
        "flops": [layer.flops for layer in layers],
        "parameters": [
            layer.parameters or layer.tied_parameters for layer in layers
        ],  # each stage has copies of its own
        "layers": [0, *(1 for _ in layers[1:-1]), 0],
    }
    costs = weights[arguments.balance]
    if arguments.hostfile:
        stage_map = _placed(arguments, layers, costs)
    else:
        replicas = 1 if arguments.replicas is None else arguments.replicas
        stage_map = make_stage_map(costs, arguments.stages, replicas, arguments.placement)
    print(to_json(stage_map), end="")


def _placed(arguments: argparse.Namespace, layers: Sequence[LayerCost], costs: Sequence[float]) -> StageMap:
    """Make a map for the nodes of a hostfile; its traffic goes to stderr, as stdout may be the map's file."""
    hostfile = load_hostfile(arguments.hostfile)
    replicas = arguments.replicas
    if replicas is None:
        replicas = max(1, hostfile.num_slots // max(1, arguments.stages))
    stage_map = make_stage_map(costs, arguments.stages, replicas)
    check_slots(hostfile, stage_map, f"--stages {arguments.stages} × --replicas {replicas}")
    volumes = volumes_of_step(
        layers,
        stage_map.cuts,
        hidden_size=load_model_config(arguments.config_name, arguments.config_overrides)["hidden_size"],
        tokens=arguments.max_seq_length,
        micro_batch_size=arguments.per_device_train_batch_size,
        micro_batches=arguments.gradient_accumulation_steps,
        bytes_per_value=2 if arguments.bf16 else 4,
        zero_stage=arguments.zero_stage,
    )
    ranks = place_ranks(arguments.stages, replicas, hostfile.node_of_rank, volumes)
    links = traffic_between(ranks, hostfile.node_of_rank, volumes)
    print("\n".join(describe_links(hostfile.names, links)), file=sys.stderr)
    return replace(stage_map, stage_to_ranks=ranks)


def _check(arguments: argparse.Namespace) -> None:
    stage_map, source = _load(arguments, arguments.world_size)
    entries = len(read_json(Path(source))[MODULES])
    reading = (
        "one entry each" if entries == stage_map.num_layers else f"read as {entries - 1} modules and the criterion"
    )
    shape = f"{_count(stage_map.num_stages, 'stage')} × {_count(stage_map.num_replicas, 'replica')}"
    print(f"{source}: OK, {shape} = {_count(stage_map.world_size, 'rank')}, {stage_map.num_layers} layers ({reading})")


def _show(arguments: argparse.Namespace) -> None:
    stage_map, source = _load(arguments)
    layers = _layer_costs(arguments, bytes_per_value=2 if arguments.bf16 else 4)
    stages = [layers[begin:end] for begin, end in pairwise(stage_map.cuts)]
    flops = [sum(layer.flops for layer in stage) for stage in stages]
    titles = ("stage", "layers", "parameters", "GFLOPs", "share", "state", "activations", "GiB a rank", "ranks")
    rows = [_row(arguments, stage_map, stage, stages[stage], flops) for stage in range(stage_map.num_stages)]
    print(f"{source} for {arguments.config_name}")
    print(table(titles, rows, texts=("layers", "ranks")))
    depth, micro_batches = stage_map.num_stages, arguments.gradient_accumulation_steps
    balance = max(flops) * depth / sum(flops)
    bubble = (depth - 1) / (micro_batches + depth - 1)
    print(f"GFLOPs: forward and backward, matrix products, of one sequence of {arguments.max_seq_length} tokens")
    print("GiB a rank: state (weights, gradients, AdamW) + activations under 1F1B, estimated")
    print(f"balance: the slowest stage computes {balance:.3f} × the mean")
    print(f"bubble of 1F1B: (p - 1)/(m + p - 1) = {depth - 1}/{micro_batches + depth - 1} = {bubble:.1%}")


def _row(
    arguments: argparse.Namespace, stage_map: StageMap, stage: int, layers: Sequence[LayerCost], flops: Sequence[int]
) -> list[str]:
    """Return the cells of one stage's line."""
    memory = stage_memory(
        layers,
        micro_batch_size=arguments.per_device_train_batch_size,
        micro_batches_in_flight=min(stage_map.num_stages - stage, arguments.gradient_accumulation_steps),
        replicas=stage_map.num_replicas,
        zero_stage=arguments.zero_stage,
        bf16=arguments.bf16,
    )
    return [
        str(stage),
        stage_map.layers_of(stage),
        f"{stage_parameters(layers):,}",
        f"{flops[stage] / 1e9:.2f}",
        f"{flops[stage] / sum(flops):.1%}",
        f"{(memory.total - memory.activations) / GIB:.2f}",
        f"{memory.activations / GIB:.2f}",
        f"{memory.total / GIB:.2f}",
        stage_map.ranks_of(stage),
    ]


def _load(arguments: argparse.Namespace, world_size: int | None = None) -> tuple[StageMap, str]:
    """Return the map named in ``arguments``, refused if no schedule can run it, and its path."""
    path = find_config("stage_maps", arguments.map)
    num_layers = load_model_config(arguments.config_name, arguments.config_overrides)["num_hidden_layers"] + 2
    stage_map = load_stage_map(path, num_layers, world_size)
    require_ascending(stage_map, str(path))
    return stage_map, str(path)


def _layer_costs(arguments: argparse.Namespace, bytes_per_value: int = 4) -> list[LayerCost]:
    for name in ("max_seq_length", "per_device_train_batch_size", "gradient_accumulation_steps"):
        if getattr(arguments, name, 1) < 1:
            raise UserError(f"--{name} is {getattr(arguments, name)}, expected at least 1")
    config = load_model_config(arguments.config_name, arguments.config_overrides)
    tokens, positions = arguments.max_seq_length, config["max_position_embeddings"]
    if tokens > positions:
        raise UserError(f"--max_seq_length is {tokens}, {arguments.config_name} has positions for {positions} tokens")
    return layer_costs(config, tokens, default_predictions(tokens), bytes_per_value, arguments.head)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
