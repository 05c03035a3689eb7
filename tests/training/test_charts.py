"""Charts: text in the terminal, a PNG in the output folder."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ds_bert.multitask.job import draw_scores
from ds_bert.training.log import HEIGHT, WIDTH, Measures, draw_course, terminal_chart, terminal_charts

FALLING = [{"step": step, "train/loss": 10.0 - step / 100} for step in range(1, 201)]


def test_a_falling_loss_falls_from_the_upper_left_to_the_lower_right() -> None:
    lines = terminal_chart(FALLING, "train/loss")
    rows = [line.partition("┤")[2] for line in lines[:HEIGHT]]
    assert len(lines) == HEIGHT + 2 and max(map(len, rows)) == WIDTH
    heights = [next(row for row in range(HEIGHT) if rows[row][column : column + 1] == "●") for column in range(WIDTH)]
    assert heights == sorted(heights) and (heights[0], heights[-1]) == (0, HEIGHT - 1)
    assert sum(row.count("●") for row in rows) == WIDTH
    first, last = (sum(entry["train/loss"] for entry in part) / len(part) for part in (FALLING[:3], FALLING[-4:]))
    assert float(lines[0].partition("┤")[0]) == round(first, 3)
    assert float(lines[HEIGHT - 1].partition("┤")[0]) == round(last, 3)
    assert "train/loss, steps 1 to 200" in lines[-1]


def test_few_points_or_none_or_equal_ones() -> None:
    assert terminal_chart([], "train/loss") == [] and terminal_chart(FALLING[:1], "train/loss") == []
    assert terminal_chart(FALLING, "eval/loss") == []
    flat = terminal_chart([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 2.0}], "loss")
    assert flat[HEIGHT - 1].endswith("┤●   ●")


def test_a_loss_that_is_no_number_is_left_out() -> None:
    broken = [*FALLING, {"step": 201, "train/loss": float("nan")}, {"step": 202, "train/loss": float("inf")}]
    assert terminal_chart(broken, "train/loss") == terminal_chart(FALLING, "train/loss")


def evaluations(steps: range, **measures: float) -> list[dict[str, Any]]:
    """Measures that grow by a tenth of themselves from one evaluation to the next."""
    return [
        {"step": step, **{f"eval/{name}": value * (1 + place / 10) for name, value in measures.items()}}
        for place, step in enumerate(steps)
    ]


def test_the_measure_that_chose_the_best_is_drawn_in_the_terminal() -> None:
    entries = [*FALLING, *evaluations(range(50, 201, 50), accuracy=0.5, loss=1.0)]
    lines = terminal_charts(entries, Measures(best=("accuracy", 150, 0.6)))
    assert lines[: HEIGHT + 2] == terminal_chart(FALLING, "train/loss")
    assert lines[-1].strip() == "eval/accuracy, steps 50 to 200; best 0.6000 at step 150"
    rows = [line.partition("┤")[2] for line in lines[HEIGHT + 2 : -2]]
    assert [row.index("●") for row in rows if "●" in row] == [12, 8, 4, 0]
    for few in (Measures(), Measures(best=("f1", 150, 0.6)), Measures(best=("accuracy", 50, 0.5))):
        shown = terminal_charts(entries[: len(FALLING) + 2], few)
        assert shown == lines[: HEIGHT + 2]


def panels(figure: Figure) -> list[tuple[str, dict[str, list[tuple[float, float]]]]]:
    """Each panel's unit, and its curves' points by label."""
    return [
        (axes.get_ylabel(), {str(line.get_label()): list(zip(*line.get_data(), strict=True)) for line in axes.lines})
        for axes in figure.axes
    ]


def assert_legible(figure: Figure) -> None:
    """No text covers another, nor leaves the picture; a legend beside a panel leaves it free."""
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        legend, (left, right), (low, high) = axes.get_legend(), sorted(axes.get_xlim()), sorted(axes.get_ylim())
        texts = [label for label in axes.get_xticklabels() if left <= label.get_position()[0] <= right]
        texts += [label for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
        texts += [axes.xaxis.label, axes.yaxis.label, *axes.texts, *legend.get_texts()]
        boxes = [text.get_window_extent() for text in texts if text.get_visible() and text.get_text()]
        assert all(figure.bbox.x0 <= box.x0 + 1 and box.x1 - 1 <= figure.bbox.x1 for box in boxes)
        assert all(figure.bbox.y0 <= box.y0 + 1 and box.y1 - 1 <= figure.bbox.y1 for box in boxes)
        upright = [text.get_window_extent() for text in texts if text.get_visible() and not text.get_rotation()]
        for place, box in enumerate(upright):
            assert not any(box.shrunk(0.9, 0.9).overlaps(other) for other in upright[:place])
        beside = len(axes.lines) > 8
        assert not beside or legend.get_window_extent().x0 >= axes.bbox.x1


MNLI = {
    "accuracy": 0.5, "loss": 1.0, "validation_mismatched_accuracy": 0.4, "validation_mismatched_loss": 1.1,
    "diagnostic_matthews_correlation": 0.1, "diagnostic_accuracy": 0.3, "diagnostic_loss": 1.2,
}  # fmt: skip
SQUAD = {
    "exact_match": 40.0, "HasAns_exact": 30.0, "NoAns_exact": 50.0, "f1": 45.0, "HasAns_f1": 35.0, "NoAns_f1": 50.0,
    "best_exact": 41.0, "best_exact_thresh": -2.0, "best_f1": 46.0, "best_f1_thresh": -1.0, "loss": 2.0,
}  # fmt: skip
TASKS = [f"task {number}" for number in range(9)]
MANY = {
    "average": 0.5, "spread": 0.1, **dict.fromkeys(TASKS, 0.6), **{f"{name}_accuracy": 0.6 for name in TASKS},
    **{f"{name}_loss": 1.0 for name in TASKS}, "loss": 1.0,
}  # fmt: skip
CASES: dict[str, tuple[dict[str, float], Measures, list[str], list[str]]] = {
    "several splits": (
        MNLI, Measures(("accuracy",), "score, 1 at best", best=("accuracy", 100, 0.55)),
        ["training", "held out", "held out, mismatched", "held out, diagnostic"],
        ["accuracy", "accuracy, mismatched", "accuracy, diagnostic", "best: accuracy 0.55 at step 100"],
    ),
    "SQuAD": (
        SQUAD, Measures(("f1", "exact_match", "best_f1", "best_exact"), "percent", best=("f1", 100, 49.5)),
        ["training", "held out"],
        ["exact match", "f1", "f1, HasAns", "f1, NoAns", "best exact", "best f1", "best: f1 49.5 at step 100"],
    ),
    "many tasks": (
        MANY, Measures(("average", *TASKS), loss_unit="mean over the tasks", best=("average", 150, 0.6)),
        ["training", "held out"], ["average", *TASKS, "best: average 0.6 at step 150"],
    ),
    "a task's loss": (
        MANY, Measures(("average", *TASKS), best=("task 3_loss", 50, 1.0)),
        ["training", "held out", "held out, task 3", "best: task 3 loss 1 at step 50"], ["average", *TASKS],
    ),
    "regression": (
        {"pearson": 0.5, "mse": 2.0, "loss": 2.0}, Measures(("pearson", "mse"), best=("mse", 50, 2.0)),
        ["training", "held out", "held out, mse", "best: mse 2 at step 50"], ["pearson"],
    ),
    "pre-training": (
        {"loss": 6.0, "mlm_loss": 5.0, "mlm_accuracy": 0.1, "sop_loss": 1.0, "sop_accuracy": 0.5}, Measures(),
        ["training", "held out", "held out, masked words", "held out, sop"], ["mlm accuracy", "sop accuracy"],
    ),
    "only losses": ({"loss": 6.0, "mlm_loss": 5.0}, Measures(), ["training", "held out", "held out, masked words"], []),
    "a measure of one's own": (
        {"my_score": 3.0, "loss": 2.0}, Measures(unit="score", best=("my_score", 50, 3.0)),
        ["training", "held out"], ["my score", "best: my score 3 at step 50"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("count", [1, 4])
def test_the_picture_shows_losses_and_measures(case: str, count: int, tmp_path: Path, figures: list[Figure]) -> None:
    found, measures, losses, scores = CASES[case]
    steps = range(50, 50 * count + 1, 50)
    draw_course(tmp_path / "loss.png", [*FALLING, *evaluations(steps, **found)], measures)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    units = [f"loss ({measures.loss_unit})", f"held out ({measures.unit})"]
    shown = panels(figure)
    assert [(unit, list(curves)) for unit, curves in shown] == list(
        zip(units, filter(None, (losses, scores)), strict=False)
    )
    curves = {label: points for _, panel in shown for label, points in panel.items()}
    assert curves["training"] == [(entry["step"], entry["train/loss"]) for entry in FALLING]
    assert curves["held out"] == [(entry["step"], entry["eval/loss"]) for entry in evaluations(steps, **found)]
    if measures.best:
        (star,) = (points for label, points in curves.items() if label.startswith("best: "))
        assert star == [measures.best[1:]]
    assert figure.axes[-1].get_xlabel() == "optimizer step"
    assert_legible(figure)


@pytest.mark.parametrize("count", [1, 3, 9, 30])
def test_the_picture_of_the_tasks_scores(count: int, tmp_path: Path, figures: list[Figure]) -> None:
    scores = {f"a task named {number}": number / 30 - 0.1 for number in range(count)}
    draw_scores(tmp_path / "scores.png", scores, 0.4)
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figures[0].axes
    assert [bar.get_height() for bar in axes.patches] == list(scores.values())
    assert [text.get_text() for text in axes.texts] == [f"{score:.3f}" for score in scores.values()]
    assert_legible(figures[0])


def test_a_loss_to_compare_with_is_a_line_in_the_panel_of_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (drawn.append(self), save(self, *args, **kw)))
    entries = [*FALLING, {"step": 200, "eval/mlm_loss": 7.5, "eval/mlm_accuracy": 0.1}]
    draw_course(tmp_path / "loss.png", entries, Measures(reference=("without context", 6.125)))
    losses, scores = drawn[0].axes
    (line,) = [line for line in losses.lines if line.get_label() == "without context: 6.12"]
    assert set(line.get_ydata()) == {6.125}
    assert not any("without context" in str(line.get_label()) for line in scores.lines)
