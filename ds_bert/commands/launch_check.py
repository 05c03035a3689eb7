"""`ds-bert launch-check`: compare a stage map, a run and the nodes of a hostfile before anything starts."""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ds_bert.cluster.hostfile import Hostfile, check_slots, load_hostfile
from ds_bert.cluster.nodes import Report, Unanswered, ask_nodes, differences
from ds_bert.cluster.traffic import Volumes, describe_links, spell_bytes, traffic_between, volumes_of_step
from ds_bert.command_line import import_extensions
from ds_bert.errors import UserError
from ds_bert.files import find_config, read_json
from ds_bert.modeling.config import load_model_config
from ds_bert.modeling.costs import default_predictions, layer_costs
from ds_bert.stage_map import StageMap, load_stage_map, require_ascending
from ds_bert.stage_map_faults import MODULES
from ds_bert.terminal import table
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.declaration import Kind, flags_of
from ds_bert.training.unknown import jobs

PACKAGES = ("torch", "deepspeed", "transformers", "numpy", "ds_bert")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--hostfile", required=True, metavar="PATH", help="the launcher's: a line `NAME slots=NUMBER` for each node"
    )
    parser.add_argument(
        "--stage_map", metavar="PATH", help="stage map: a JSON file or a shipped name; default: the one of --run"
    )
    parser.add_argument("--run", dest="run_json", metavar="RUN.JSON", help="the job's arguments, for bytes and files")
    parser.add_argument("--ssh_port", type=int, help="port of ssh on the nodes; default: ssh's own choice")
    parser.add_argument("--connect_timeout", type=int, default=10, help="seconds to wait for a node")
    parser.add_argument("--no_ssh", action="store_true", help="look at the files here only, not at the nodes")


def run(arguments: argparse.Namespace) -> None:
    """Print what would run where, and end with one sentence if it could not."""
    hostfile = load_hostfile(arguments.hostfile)
    values = _read_run(arguments.run_json)
    stage_map, source = _load_map(arguments.stage_map or values.get("stage_map"), values)
    check_slots(hostfile, stage_map, source)
    _print_ranks(hostfile, stage_map)
    volumes = _volumes(values, stage_map)
    _print_boundaries(hostfile, stage_map, volumes)
    if volumes:
        links = traffic_between(stage_map.stage_to_ranks, hostfile.node_of_rank, volumes)
        print("\n".join(describe_links(hostfile.names, links)))
    if not arguments.no_ssh:
        reports = _look(arguments, hostfile, values | {"stage_map": source})
        _print_network(hostfile, reports)
    print("OK")


def _read_run(path: str | None) -> dict[str, Any]:
    """Return the arguments that a run's JSON file gives, over the jobs' defaults."""
    values: dict[str, Any] = {name: flag.default for name, flag in flags_of(TrainingArguments).items()}
    given = read_json(Path(path)) if path else {}
    if not isinstance(given, dict):
        raise UserError(f"{path}: holds a {type(given).__name__}, needed is an object of arguments and values")
    import_extensions(given.get("extensions") or [])
    values |= given
    for name in ("max_seq_length", "per_device_train_batch_size", "gradient_accumulation_steps"):
        if type(values[name]) is not int or values[name] < 1:
            raise UserError(f"{path}: {name} is {values[name]!r}, needed is a whole number from 1 on")
    return values


def _load_map(name: str | None, values: dict[str, Any]) -> tuple[StageMap, str]:
    """Return the map and its path; without a model, every entry of it is taken for a layer."""
    if not name:
        raise UserError("--stage_map is missing, needed is a JSON file or a shipped name, here or in --run's file")
    path = find_config("stage_maps", name)
    model = _model(values)
    entries = read_json(path)
    entries = entries.get(MODULES) if isinstance(entries, dict) else None
    num_layers = model["num_hidden_layers"] + 2 if model else len(entries) if isinstance(entries, list) else 3
    stage_map = load_stage_map(path, num_layers)
    require_ascending(stage_map, str(path))
    return stage_map, str(path)


def _model(values: dict[str, Any]) -> dict[str, Any] | None:
    name = values.get("config_name") or values.get("model_name_or_path")
    return load_model_config(name, values.get("config_overrides")) if name else None


def _volumes(values: dict[str, Any], stage_map: StageMap) -> Volumes | None:
    model = _model(values)
    if model is None:
        return None
    engine = read_json(find_config("engine", values["deepspeed_config"])) if values["deepspeed_config"] else {}
    half = any(values[name] or engine.get(name, {}).get("enabled") is True for name in ("bf16", "fp16"))
    tokens = values["max_seq_length"]
    # what matters of the head is whether it ties the embeddings
    head = "pretraining" if values.get("train_path") else "sequence-classification"
    return volumes_of_step(
        layer_costs(model, tokens, default_predictions(tokens), head=head),
        stage_map.cuts,
        hidden_size=model["hidden_size"],
        tokens=tokens,
        micro_batch_size=values["per_device_train_batch_size"],
        micro_batches=values["gradient_accumulation_steps"],
        bytes_per_value=2 if half else 4,
        zero_stage=engine.get("zero_optimization", {}).get("stage", 0),
    )


def _print_ranks(hostfile: Hostfile, stage_map: StageMap) -> None:
    rows = [
        (name, *map(str, (rank, *stage_map.position(rank))))
        for node, name in enumerate(hostfile.names)
        for rank in hostfile.ranks(node)
    ]
    print(table(("node", "rank", "stage", "replica"), rows, texts=("node",)))


def _print_boundaries(hostfile: Hostfile, stage_map: StageMap, volumes: Volumes | None) -> None:
    nodes = hostfile.node_of_rank
    for stage in range(stage_map.num_stages - 1):
        pairs = zip(*stage_map.stage_to_ranks[stage : stage + 2], strict=True)
        crossing = sum(nodes[before] != nodes[after] for before, after in pairs)
        size = (
            f"at most {spell_bytes(crossing * volumes.boundary)} a step"
            if volumes
            else "--run would say how many bytes"
        )
        said = (
            f"crosses nodes in {crossing} of {stage_map.num_replicas} replicas: {size}" if crossing else "on one node"
        )
        print(f"boundary of stages {stage} and {stage + 1}: {said}")


def _look(arguments: argparse.Namespace, hostfile: Hostfile, values: dict[str, Any]) -> list[Report]:
    """Ask every node and refuse those that do not answer or are not alike.

    Raises:
        UserError: naming every fault.
    """
    kinds = {name: flag.kind for job in jobs() for name, flag in flags_of(job).items()}
    data, others = ([name for name, found in kinds.items() if found is kind] for kind in (Kind.DATA, Kind.NAMED))
    files = {path: name for name in (*data, *others) for path in _paths(values.get(name))}
    needed = {path for name in data for path in _paths(values.get(name))}
    with _mark(values.get("output_dir")) as mark:
        files |= {mark: "output_dir"} if mark else {}
        answers = ask_nodes(hostfile.names, PACKAGES, list(files), arguments.connect_timeout, arguments.ssh_port)
    named = zip(hostfile.names, answers, strict=True)
    silent = [f"{name}: {answer}" for name, answer in named if isinstance(answer, Unanswered)]
    _refuse(hostfile, silent)
    reports = [answer for answer in answers if isinstance(answer, Report)]
    _refuse(hostfile, differences(hostfile, reports, files, needed))
    alike = ", ".join(f"{package} {version}" for package, version in reports[0].packages.items() if version)
    here = [path for path, digest in reports[0].files.items() if digest and path != mark]
    print(f"alike on all nodes: Python {reports[0].python}, {alike}; {len(here)} files and folders of the run")
    return reports


def _paths(value: Any) -> list[str]:
    """The paths that an argument names: one, several or none."""
    return [path for path in (value if isinstance(value, list) else [value]) if isinstance(path, str) and path]


def _refuse(hostfile: Hostfile, faults: Sequence[str]) -> None:
    if faults:
        count = f"{len(faults)} faults: " if len(faults) > 1 else ""
        raise UserError(f"{hostfile.path}: {count}{'; '.join(faults)}")


@contextlib.contextmanager
def _mark(output_dir: str | None) -> Iterator[str | None]:
    """Put a file where the output folder will be, for as long as the nodes are asked whether they see it."""
    if not output_dir:
        yield None
        return
    folder = Path(os.path.abspath(output_dir))
    folder = next(path for path in (folder, *folder.parents) if path.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".launch-check-") as file:
            yield file.name
    except PermissionError:
        raise UserError(f"output_dir: {folder} cannot be written to, needed is a folder of all nodes") from None


def _print_network(hostfile: Hostfile, reports: Sequence[Report]) -> None:
    """Say which interface joins the nodes, as gloo and NCCL must be told."""
    titles = ("node", "reached at", "interface")
    rows = [
        (name, report.address or "unknown", report.interface or "none")
        for name, report in zip(hostfile.names, reports, strict=True)
    ]
    print(table(titles, rows, texts=titles))
    names = {report.interface for report in reports}
    if len(names) == 1 and not names & {"", "lo"}:
        (interface,) = names
        print(f"in .deepspeed_env: GLOO_SOCKET_IFNAME={interface} and NCCL_SOCKET_IFNAME={interface}")
    elif len(reports) > 1:
        print("the nodes' interfaces differ: set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME on each node, see the guide")
