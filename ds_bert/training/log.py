"""What rank 0 shows and keeps of a run: a progress bar or lines, TensorBoard, and a log of JSON lines."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ds_bert.files import write_atomically


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
