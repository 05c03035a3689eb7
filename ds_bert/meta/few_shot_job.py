"""The few-shot job: every split, by every method, one result after another on disk."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ds_bert.checkpoint.pretrained import PretrainedWeights, local_folder
from ds_bert.data.vocabulary import Tokenizer, check_fits, load_tokenizer
from ds_bert.engine.heartbeat import Heartbeat
from ds_bert.engine.process_group import Grid
from ds_bert.errors import UserError
from ds_bert.files import read_json, write_atomically, write_json
from ds_bert.meta.arguments import FewShotArguments
from ds_bert.meta.few_shot import Adaptation, FewShot, Recipe
from ds_bert.meta.few_shot_data import FewShotTasks
from ds_bert.meta.model import FRESH, build_stage, check_meta_weights, meta_config
from ds_bert.meta.task import Method
from ds_bert.modeling.adapters import HEAD_STEP_SIZE, MetaModel, Selection
from ds_bert.modeling.config import load_model_config
from ds_bert.modeling.model import carry_declaration
from ds_bert.stage_map import StageMap
from ds_bert.terminal import table
from ds_bert.training.consistency import check_same_arguments
from ds_bert.training.job import all_ranks, choose_stage_map
from ds_bert.training.lifecycle import claim_output_dir
from ds_bert.training.overview import describe_devices, describe_model, machine_and_device, show_overview
from ds_bert.training.settings import check_at_most, traced_steps
from ds_bert.training.trace import keep_trace

METHODS = ("meta", "fine-tuning", "head-only", "prototypes")
RESULTS = "results.json"
_DRAWN = 10  # steps that the trace's picture shows


class Model:
    """The checkpoint to start from, read and checked.

    Args:
        arguments: of the job.

    Raises:
        UserError: it cannot be read, or was not meta-trained although "meta" is among the methods.
    """

    def __init__(self, arguments: FewShotArguments) -> None:
        if not arguments.checkpoint:
            raise UserError("--checkpoint is missing")
        self.folder = local_folder(arguments.checkpoint)
        self.fields: dict[str, Any] = load_model_config(self.folder)
        self.tokenizer: Tokenizer = load_tokenizer(self.folder)
        check_fits(self.tokenizer, self.fields["vocab_size"])
        self.learner = self.fields.get("meta_learner")
        if "meta" in arguments.methods and self.learner is None:
            raise UserError(f"{self.folder}: was not meta-trained; for a plain model, --methods names baselines only")
        options = MetaModel(**self.fields.get("meta_learning", {"pooling": arguments.pooling}))
        self.config = meta_config(self.fields, options, self.learner or {})
        self.weights = PretrainedWeights(self.folder, self.fields["model_type"])
        self.lacking = check_meta_weights(self.weights, self.config, () if self.learner else FRESH)

    def stage(self, grid: Grid, seed: int) -> Any:
        """This process's layers, with their weights."""
        module = build_stage(self.config, grid, seed, recompute=False, step_size=1.0)
        # Earlier versions kept the head's step sizes, though with adapters it was not adapted; here they are 0.
        is_held = self.learner and self.learner["warp_layers"] and self.learner["parameter_efficient"]
        for name, parameter in module.parameters_by_name().items():
            if name in self.weights and not (is_held and name.startswith(HEAD_STEP_SIZE)):
                parameter.data.copy_(self.weights.read(name))
        return module.to(grid.device)

    def recipe(self, method: str, arguments: FewShotArguments) -> Recipe:
        """How one of `METHODS` learns."""
        bound = arguments.max_grad_norm
        if method == "meta":
            how = self.learner or {}
            selection = Selection(how["parameter_efficient"], False, how["warp_layers"], how["min_layer_with_grad"])
            learned = Method(euclidean=how["euclidean"], max_grad_norm=bound)
            return Recipe(learned, selection.is_adapted, arguments.step_size_scale)
        if method == "fine-tuning":
            plain = Method("pooled", "zero", max_grad_norm=bound)
            return Recipe(plain, lambda name: not name.startswith("meta."), arguments.learning_rate, by_adamw=True)
        if method == "head-only":
            plain = Method("pooled", "zero", max_grad_norm=bound)
            return Recipe(plain, lambda name: False, arguments.head_learning_rate, by_adamw=True)
        return Recipe(Method("mean", "means", euclidean=True), lambda name: False, 0.0)


def prepare_map(arguments: FewShotArguments, given: set[str], model: dict[str, Any]) -> StageMap:
    """Check the arguments and choose the stage map.

    Raises:
        UserError: a number or a method is none that can be used, or the map is wrong.
    """
    unknown = [method for method in arguments.methods if method not in METHODS]
    if unknown or not arguments.methods:
        raise UserError(f"--methods {' '.join(arguments.methods)}: needed is some of {', '.join(METHODS)}")
    positions = model["max_position_embeddings"]
    check_at_most(arguments, "max_seq_length", positions, "the positions that the model has")
    if not arguments.output_dir:
        raise UserError("--output_dir is missing")
    traced_steps(arguments)
    length = arguments.max_seq_length
    return choose_stage_map(arguments, given, model, length, head="sequence-classification")


def few_shot(arguments: FewShotArguments, model: Model, tasks: FewShotTasks, stage_map: StageMap) -> int:
    """Learn all tasks by all methods, and report.

    Args:
        arguments: of the job.
        model: to start from.
        tasks: to learn.
        stage_map: which layers run where.

    Raises:
        UserError: the output folder holds something else.
    """
    output_dir = Path(arguments.output_dir or "")
    claim_output_dir(output_dir, arguments.resume, arguments.overwrite_output_dir)
    done = _known(output_dir / RESULTS, arguments) if arguments.resume else {}
    classes = next(iter(tasks.episodes.values())).num_classes if arguments.scale_by_classes else 1
    course = Adaptation(
        arguments.epochs * classes,
        arguments.train_batch_size * classes,
        arguments.loss_threshold,
        arguments.max_steps,
        arguments.warmup_ratio,
        arguments.per_device_eval_batch_size,
        arguments.seed,
        arguments.lr_scheduler_type,
    )

    def learn(grid: Grid, heartbeat: Heartbeat) -> None:
        learner = FewShot(
            model.stage(grid, arguments.seed),
            carry_declaration(model.config, torch.float32),
            grid,
            course,
            arguments.tasks_in_flight,
            traced_steps(arguments),
        )
        heartbeat.steps_done = lambda: learner.steps_done
        _show_overview(learner, arguments, model, tasks, done)
        _learn_all(learner, arguments, model, tasks, done)

    with all_ranks(arguments, stage_map) as (grid, heartbeat):
        learn(grid, heartbeat)
    return 0


def _show_overview(
    learner: FewShot, arguments: FewShotArguments, model: Model, tasks: FewShotTasks, done: dict[str, Any]
) -> None:
    """Say what is about to be learned, and what is left out."""
    grid, sizes = learner.grid, {name: parameter.numel() for name, parameter in learner.parameters.items()}
    found = f"{len(done)} results in {arguments.output_dir}" if done else ""
    lines = [
        ("model", describe_model(learner.gather((sizes, set())), model.fields, f"weights of {model.folder}")),
        ("device", describe_devices(grid, "fp32", learner.gather(machine_and_device(grid)))),
        ("cut", grid.stage_map.in_words()),
        ("steps", f"{learner.course.epochs} epochs of batches of {learner.course.batch_size}, at most"),
        ("data", f"{tasks.name}: {len(tasks.episodes)} training sets, each by {', '.join(arguments.methods)}"),
        ("resume", (f"going on from {found}" if found else "none found, beginning anew") if arguments.resume else ""),
    ]
    show_overview(grid, lines, [*filter(None, [model.lacking]), *(f"left out: {each}" for each in tasks.left_out)])


def _learn_all(
    learner: FewShot, arguments: FewShotArguments, model: Model, tasks: FewShotTasks, done: dict[str, Any]
) -> None:
    """Learn what is not done yet, keeping every result, and print the table."""
    is_first, output_dir = learner.grid.rank == 0, Path(arguments.output_dir or "")
    results = learner.gather(done)[0]  # all take rank 0's word
    for k in dict.fromkeys(k for k, _ in tasks.episodes):
        for method in arguments.methods:
            splits = [split for found, split in tasks.episodes if found == k]
            for measured in _learn(learner, model.recipe(method, arguments), method, k, splits, tasks, results):
                results |= measured
                if is_first:
                    _write(output_dir, arguments, tasks.name, results)
    learner.timeline.collect(wait=True)
    spans = learner.gather(learner.timeline.spans)
    if is_first:
        titles, *rows = results_table(tasks.name, summarize(results))
        lines = [table(titles, rows, texts=(tasks.name,))]
        if learner.timeline.traced:
            lines += keep_trace(output_dir, learner.grid.stage_map, spans, _DRAWN)
        print("\n".join(lines), flush=True)
    learner.gather(None)


def _learn(
    learner: FewShot,
    recipe: Recipe,
    method: str,
    k: int,
    splits: Sequence[int],
    tasks: FewShotTasks,
    results: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yield results of splits that have none yet, as many at once as all replicas learn at once."""
    grid = learner.grid
    missing = [split for split in splits if key_of(method, k, split) not in results]
    at_once = learner.at_once * grid.num_replicas
    for first in range(0, len(missing), at_once):
        mine = missing[first : first + at_once][grid.replica :: grid.num_replicas]
        measured = learner.learn(recipe, [tasks.episodes[k, split] for split in mine], mine) if mine else []
        keys = [key_of(method, k, split) for split in mine]
        everyone = learner.gather(dict(zip(keys, measured, strict=True)))
        yield {key: value for part in everyone for key, value in part.items()}


def _known(path: Path, arguments: FewShotArguments) -> dict[str, Any]:
    """The results that an earlier run left."""
    if not path.is_file():
        return {}
    data = read_json(path)
    check_same_arguments(path, data["arguments"], arguments)
    return data["results"]


def _write(output_dir: Path, arguments: FewShotArguments, name: str, results: dict[str, Any]) -> None:
    summary = summarize(results)
    write_json(
        output_dir / RESULTS,
        {"task": name, "arguments": asdict(arguments), "summary": summary, "results": dict(sorted(results.items()))},
    )
    write_atomically(output_dir / "results.md", _as_markdown(results_table(name, summary)))
    draw_accuracy(output_dir / "accuracy.png", name, summary)


Results = Mapping[str, Mapping[str, Any]]
"""By "method/k/split": what was measured, "accuracy" among it."""


def key_of(method: str, k: int, split: int) -> str:
    """The name of one result."""
    return f"{method}/{k}/{split}"


def summarize(results: Results) -> dict[str, dict[int, dict[str, float]]]:
    """Return mean, sample deviation and number of splits, by method and k."""
    accuracies: dict[tuple[str, int], list[float]] = {}
    for key, result in results.items():
        method, size, _ = key.split("/")
        accuracies.setdefault((method, int(size)), []).append(result["accuracy"])
    summary: dict[str, dict[int, dict[str, float]]] = {}
    for (method, k), values in sorted(accuracies.items(), key=lambda item: item[0][1]):
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        found = {"mean": statistics.mean(values), "deviation": deviation, "splits": len(values)}
        summary.setdefault(method, {})[k] = found
    return summary


def results_table(name: str, summary: Mapping[str, Mapping[int, Mapping[str, float]]]) -> list[list[str]]:
    """Titles, and a row per method: a column per k, accuracy in percent, mean ± deviation (training sets)."""
    sizes = sorted({k for row in summary.values() for k in row})
    rows = [[name, *(f"k = {k}" for k in sizes)]]
    for method, row in summary.items():
        cells = [
            f"{100 * row[k]['mean']:.1f} ± {100 * row[k]['deviation']:.1f} ({row[k]['splits']:.0f})"
            if k in row
            else "–"
            for k in sizes
        ]
        rows.append([method, *cells])
    return rows


def _as_markdown(rows: Sequence[Sequence[str]]) -> str:
    titles, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([titles, "|---" * len(rows[0]) + "|", *others, ""])


def draw_accuracy(path: Path, name: str, summary: Mapping[str, Mapping[int, Mapping[str, float]]]) -> None:
    """Draw accuracy over k, with deviations, as a PNG."""
    from matplotlib.figure import Figure  # not pyplot, whose state may be a notebook's

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    sizes: Sequence[int] = sorted({k for row in summary.values() for k in row})
    for method, row in summary.items():
        known = [k for k in sizes if k in row]
        means, deviations = ([row[k][kind] for k in known] for kind in ("mean", "deviation"))
        axes.errorbar(known, means, yerr=deviations, marker="o", capsize=3, label=method)
    axes.set(xlabel="k, examples of each class", ylabel="accuracy", title=name, xticks=sizes)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
