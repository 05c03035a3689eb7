"""Charts: text in the terminal, a PNG in the output folder."""

from pathlib import Path

from ds_bert.training.charts import HEIGHT, WIDTH, draw_loss, terminal_chart

FALLING = [{"step": step, "train/loss": 10.0 - step / 100} for step in range(1, 201)]


def test_a_falling_loss_falls_from_the_upper_left_to_the_lower_right() -> None:
    lines = terminal_chart(FALLING, "train/loss")
    rows = [line.partition("┤")[2] for line in lines[:HEIGHT]]
    assert len(lines) == HEIGHT + 2 and max(map(len, rows)) == WIDTH
    heights = [next(row for row in range(HEIGHT) if rows[row][column] == "●") for column in range(WIDTH)]
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
    assert flat[HEIGHT - 1].endswith("●●")


def test_a_loss_that_is_no_number_is_left_out() -> None:
    broken = [*FALLING, {"step": 201, "train/loss": float("nan")}, {"step": 202, "train/loss": float("inf")}]
    assert terminal_chart(broken, "train/loss") == terminal_chart(FALLING, "train/loss")


def test_a_png_of_the_losses(tmp_path: Path) -> None:
    draw_loss(tmp_path / "loss.png", [*FALLING, {"step": 200, "eval/mlm_loss": 7.0}])
    content = (tmp_path / "loss.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 5000
