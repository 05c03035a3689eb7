"""Some steps under torch's profiler: what every rank's CPU and GPU did, as a file for Perfetto, and as a table."""

from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from ds_bert.engine.process_group import Grid
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.checks import named_steps

FOLDER = "profile"
_ROWS = 12  # of the table


class Profiler:
    """Profiles the steps that ``--profile_steps`` names; without it, none.

    Args:
        arguments: of the job.
        place: of this process.
    """

    def __init__(self, arguments: TrainingArguments, place: Grid) -> None:
        self.steps = named_steps(arguments, "profile_steps")
        self.place = place
        self._folder = (arguments.report_dir or Path()) / FOLDER
        self._running: profile | None = None
        self._lines: list[str] = []

    def reach(self, step: int) -> None:
        """Begin or end profiling, if it is time to, before ``step`` (from 1) begins."""
        if step in self.steps and self._running is None:
            device = [ProfilerActivity.CUDA] if self.place.device.type == "cuda" else []
            self._running = profile(activities=[ProfilerActivity.CPU, *device])
            self._running.start()
            self._first = step
        elif step not in self.steps and self._running is not None:
            self._stop(step - 1)

    def end(self, last: int) -> list[str]:
        """End profiling after step ``last``, if that is still to be done; return the table in lines."""
        if self._running is not None:
            self._stop(last)
        return self._lines

    def abandon(self) -> None:
        """End profiling after a failure: torch runs one profiler at a time, and the process may go on."""
        if self._running is not None:
            self._running.stop()

    def _stop(self, last: int) -> None:
        assert self._running is not None
        finished, self._running = self._running, None
        finished.stop()
        path = self._folder / f"rank-{self.place.stage_map.launcher_rank(self.place.rank)}.json.gz"
        steps = f"steps {self._first} to {last}"
        try:
            self._folder.mkdir(exist_ok=True)
            finished.export_chrome_trace(str(path))
            self._lines = [f"profile: {self._folder} ({steps}, a file per rank, for Perfetto)"]
        except (OSError, RuntimeError) as error:
            self._lines = [f"profile: {path} could not be written: {error}"]
        unit = "device" if self.place.device.type == "cuda" else "cpu"
        averages = finished.key_averages()
        table = averages.table(sort_by=f"self_{unit}_time_total", row_limit=_ROWS, max_name_column_width=40)
        self._lines += [f"operations of {self.place} by their own time, {steps}:", *table.splitlines()]
