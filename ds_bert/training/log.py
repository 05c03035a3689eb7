"""What rank 0 shows and keeps of a run: progress, a log of JSON lines, TensorBoard, and charts."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ds_bert.files import write_atomically

LOSS = "loss"
_ERRORS = (LOSS, "mse", "rmse", "mae")


def is_error(measure: str) -> bool:
    """Whether a measure is the better the lower it is: one named so, or whose name ends so (`mlm_loss`)."""
    return measure.rpartition("_")[2] in _ERRORS


class RunLog:
    """The log of one run; on other ranks than 0 it does nothing.

    Args:
        output_dir: where `log.jsonl` and TensorBoard's `tensorboard/` go; None keeps nothing.
        is_main: whether this is rank 0.
        first_step, total_steps: of the progress.
        show_bar: whether a terminal gets a bar; there are lines where it does not, or where stderr is no terminal.
    """

    def __init__(
        self, output_dir: Path | None, is_main: bool, first_step: int, total_steps: int, show_bar: bool = True
    ) -> None:
        self.is_main = is_main
        self.writer: Any = None
        self.path = output_dir / "log.jsonl" if output_dir and is_main else None
        if self.path:
            from torch.utils.tensorboard import SummaryWriter

            purge_step = first_step + 1 if first_step else None
            self.writer = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=purge_step)
            _forget_after(self.path, first_step)
        has_bar = is_main and show_bar and sys.stderr.isatty()
        self.has_lines = is_main and not has_bar
        self.total_steps = total_steps
        self._origin, self._is_warm = (first_step, time.monotonic()), False  # what the time left is reckoned from
        self.bar = tqdm(
            initial=first_step,
            total=total_steps,
            unit="step",
            disable=not has_bar,
            dynamic_ncols=True,
            smoothing=0.1,
        )

    def progress(self, loss: float, samples_per_second: float | None) -> None:
        """Advance the bar by one step."""
        speed = f", {samples_per_second:.1f} samples/s" if samples_per_second else ""
        self.bar.set_postfix_str(f"loss {loss:.3f}{speed}", refresh=False)
        self.bar.update()

    def report(self, step: int, values: dict[str, float]) -> None:
        """Print a line of progress where there is no bar.

        Args:
            step: that is done, counted from 1.
            values: ``loss``, ``learning_rate`` and, if known, ``samples_per_second``, since the last line.
        """
        if not self.has_lines:
            return
        (first_step, begin), now = self._origin, time.monotonic()
        left = (now - begin) / max(1, step - first_step) * (self.total_steps - step)
        if not self._is_warm:  # what came before the first line was slow, to warm up
            self._origin, self._is_warm = (step, now), True
        speed = f", {values['samples_per_second']:.1f} samples/s" if "samples_per_second" in values else ""
        self.say(
            f"step {step}/{self.total_steps}: loss {values['loss']:.4f}, learning rate {values['learning_rate']:.3g}"
            f"{speed}, {tqdm.format_interval(left)} left"
        )

    def record(self, step: int, values: dict[str, float], prefix: str = "train") -> None:
        """Keep values of a step."""
        if self.path is None:
            return
        entry = {"step": step, "time": round(time.time(), 3), **{f"{prefix}/{key}": v for key, v in values.items()}}
        self._append(entry)
        for key, value in values.items():
            self.writer.add_scalar(f"{prefix}/{key}", value, step)

    def note(self, step: int, text: str) -> None:
        """Print a line and keep it, as what was met at a step."""
        self.say(text)
        if self.path:
            self._append({"step": step, "time": round(time.time(), 3), "note": text})
            self.writer.add_text("notes", text, step)

    def say(self, text: str) -> None:
        """Print a line at once, without breaking the bar."""
        if self.is_main:
            tqdm.write(text)
            sys.stdout.flush()

    def _append(self, entry: dict[str, Any]) -> None:
        assert self.path is not None
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Finish the bar and TensorBoard's file."""
        self.bar.close()
        if self.writer:
            self.writer.close()


def read_log(output_dir: Path) -> list[dict[str, Any]]:
    """The entries of a run's `log.jsonl`, oldest first."""
    path = output_dir / "log.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def _forget_after(path: Path, step: int) -> None:
    """Drop the entries of steps that a resumed run takes again."""
    if path.is_file():
        kept = [entry for entry in read_log(path.parent) if entry["step"] <= step]
        write_atomically(path, "".join(json.dumps(entry) + "\n" for entry in kept))


HEIGHT, WIDTH = 10, 64
_WIDEST_GAP = 4  # columns from one point to the next, where there are few
_LOSSES = {
    "train/loss": "training",
    "train/mlm_loss": "training, masked words",
    "eval/loss": "held out",
    "eval/mlm_loss": "held out, masked words",
}
_FEWEST = 3  # evaluations that make a chart in the terminal
_THRESHOLD = "_thresh"  # ends the names of what SQuAD's measures are reached at
_MOST_LOSSES = 3  # of other splits, before they would hide the others
_BESIDE = 6  # more curves than this have their legend beside them, in columns of so many
_ROWS = 16

Entries = Sequence[dict[str, Any]]
"""Of a log, see `ds_bert.training.log.read_log`."""


@dataclass(frozen=True)
class Measures:
    """What charts show of evaluations.

    Args:
        names: of the measures; those of further splits end with them. None: all but losses and thresholds.
        unit: what they are counted in.
        loss_unit: what the loss is counted in.
        best: (measure, step, value) of the best checkpoint's evaluation, where one was chosen.
        reference: (what it is, value): a loss to compare with, drawn as a line.
    """

    names: tuple[str, ...] = ()
    unit: str = "share"
    loss_unit: str = "nats"
    best: tuple[str, int, float] | None = None
    reference: tuple[str, float] | None = None


def terminal_chart(entries: Entries, key: str, note: str = "") -> list[str]:
    """Draw ``key`` over steps with text: a column is the mean of its share of the entries; below, ``note``."""
    points = _points(entries, key)
    if len(points) < 2:
        return []
    values = [value for _, value in points]
    columns = min(WIDTH, len(values))
    gap = min(_WIDEST_GAP, WIDTH // columns)
    means = []
    for column in range(columns):
        part = values[column * len(values) // columns : (column + 1) * len(values) // columns]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    levels = [round((mean - low) / ((high - low) or 1.0) * (HEIGHT - 1)) for mean in means]
    rows = []
    for row in reversed(range(HEIGHT)):
        label = f"{low + (high - low) * row / (HEIGHT - 1):7.3f}"
        signs = (" " * (gap - 1)).join("●" if level == row else " " for level in levels)
        rows.append(f"{label} ┤{signs}".rstrip())
    width = (columns - 1) * gap + 1
    rows.append(" " * 8 + "└" + "─" * width)
    rows.append(f"{key}, steps {points[0][0]} to {points[-1][0]}{note}".rjust(9 + width))
    return rows


def terminal_charts(entries: Entries, measures: Measures) -> list[str]:
    """Draw the training loss and, where a best checkpoint was chosen among several, the measure that chose it."""
    lines = terminal_chart(entries, "train/loss")
    if measures.best and len(_points(entries, f"eval/{measures.best[0]}")) >= _FEWEST:
        name, step, value = measures.best
        lines += terminal_chart(entries, f"eval/{name}", f"; best {value:.4f} at step {step}")
    return lines


def draw_course(path: Path, entries: Entries, measures: Measures) -> None:
    """Draw a PNG with the losses of a log over its steps and, below them, the measures of its evaluations."""
    from matplotlib.figure import Figure  # not pyplot, whose state may be a notebook's
    from matplotlib.ticker import MaxNLocator

    losses, scores = _curves(entries, measures)
    panels = [(losses, f"loss ({measures.loss_unit})"), *([(scores, f"held out ({measures.unit})")] if scores else [])]
    width = 8 + 2.5 * max(_columns_beside(curves) for curves, _ in panels)
    size = width, 4.5 if len(panels) == 1 else 8
    figure = Figure(figsize=size, layout="constrained")
    rows = figure.subplots(len(panels), sharex=True, squeeze=False)
    for axes, (curves, unit) in zip(rows[:, 0], panels, strict=True):
        if measures.reference and curves is losses:
            name, value = measures.reference
            axes.axhline(value, color="grey", linestyle="--", label=f"{name}: {value:.2f}")
        _draw_panel(axes, entries, curves, measures.best)
        axes.set_ylabel(unit)
        axes.grid(alpha=0.3)
    rows[-1, 0].set_xlabel("optimizer step")
    rows[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=120)


def _draw_panel(axes: Any, entries: Entries, curves: dict[str, str], best: tuple[str, int, float] | None) -> None:
    """Draw curves, and a star at the best evaluation if its measure is among them."""
    styles = ("-", "--", ":", "-.")
    for number, (key, label) in enumerate(curves.items()):
        style: dict[str, Any] = {"color": f"C{number % 10}", "linestyle": styles[number // 10 % len(styles)]}
        if key.startswith("eval/"):
            style |= {"marker": "o", "markersize": 3.5, "zorder": 3}
        if best and key == f"eval/{best[0]}":
            style |= {"linewidth": 2.5}
        axes.plot(*zip(*_points(entries, key), strict=True), label=label, **style)
    if best and f"eval/{best[0]}" in curves:
        name, step, value = best
        label = f"best: {_spelled(name)} {value:.4g} at step {step}"
        axes.plot([step], [value], "*", color="black", markersize=13, zorder=4, linestyle="none", label=label)
    columns = _columns_beside(curves)
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "ncols": columns} if columns else {}
    axes.legend(fontsize="small", **beside)


def _columns_beside(curves: Mapping[str, str]) -> int:
    """How many columns a panel's legend has beside it; 0 where there is room for it among the curves."""
    return math.ceil((len(curves) + 1) / _ROWS) if len(curves) > _BESIDE else 0


def _curves(entries: Entries, measures: Measures) -> tuple[dict[str, str], dict[str, str]]:
    """The log's keys to be drawn as losses and as measures, each with its label."""
    keys = [key for key in dict.fromkeys(key for entry in entries for key in entry) if _points(entries, key)]
    losses = {key: label for key, label in _LOSSES.items() if key in keys}
    others, scores = {}, {}
    for key in keys:
        name = key.removeprefix("eval/")
        if name == key or key in _LOSSES or name.endswith(_THRESHOLD):
            continue
        label = _label(name, measures.names)
        if name.endswith(f"_{LOSS}"):
            others[key] = f"held out, {_spelled(name.removesuffix(f'_{LOSS}'))}"
        elif is_error(name) and label:
            losses[key] = f"held out, {label}"
        elif label:
            scores[key] = label
    chosen = f"eval/{measures.best[0]}" if measures.best else ""
    few = others if len(others) <= _MOST_LOSSES else {key: label for key, label in others.items() if key == chosen}
    return losses | few, scores


def _label(name: str, names: tuple[str, ...]) -> str:
    """What a measure is called: "accuracy, mismatched" for `validation_mismatched_accuracy`; "" if it is not shown."""
    if not names or name in names:
        return _spelled(name)
    measure = max((known for known in names if name.endswith(f"_{known}")), key=len, default="")
    return f"{_spelled(measure)}, {_spelled(name.removesuffix(f'_{measure}'))}" if measure else ""


def _spelled(name: str) -> str:
    return name.removeprefix("validation_").replace("_", " ")


def _points(entries: Entries, key: str) -> list[tuple[int, float]]:
    """(step, value) of the entries that have a number there."""
    return [
        (entry["step"], entry[key])
        for entry in entries
        if isinstance(entry.get(key), int | float) and math.isfinite(entry[key])
    ]
