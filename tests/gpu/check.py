"""Check on GPUs, within ten minutes, what machines without one can only emulate.

    python -m tests.gpu.check                                # all checks; `make gpu-check` does this
    python -m tests.gpu.check --only job-resumed             # one, and what it needs
    python -m tests.gpu.check --cpu --output cpu.json        # the CPU in a GPU's place

Every check prints a line; the last line counts them. The exit status is 1 if one failed. Without a GPU all are skipped.
The figures go to a JSON file.
"""

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # this process computes nothing; those that it starts are told theirs

from ds_bert.terminal import keep_printing
from tests.gpu import jobs, memory, parity, speed
from tests.gpu.ranks import ROOT, Bench, CheckFailed, run_ranks

TOTAL_SECONDS = 600.0
MACHINE_SECONDS = 90.0
RESULTS = ROOT / "docs" / "experiments" / "gpu" / "results"


@dataclass(frozen=True)
class Check:
    """Something that is found to hold or not, by processes of its own.

    Args:
        name: by which it is asked for.
        limit: seconds that it may take.
        run: gives its figures, or raises `CheckFailed`.
        needs: checks that must have passed before.
        gpus: that it cannot do without; 0: the CPU will do, too.
    """

    name: str
    limit: float
    run: Callable[[Bench], dict[str, Any]]
    needs: tuple[str, ...] = ()
    gpus: int = 0


def _parity(name: str, *needs: str) -> Check:
    world = parity.WORLDS[name]
    return Check(name, 120, parity.run_world(name), needs, world.gpus if world.transport == "nccl" else 0)


CHECKS = [
    _parity("reference"),
    _parity("one-stage", "reference"),
    _parity("two-stages-gloo", "reference", "one-stage"),
    _parity("two-stages-nccl", "reference", "one-stage"),
    _parity("two-replicas-gloo", "reference", "one-stage"),
    _parity("two-replicas-nccl", "reference", "one-stage"),
    _parity("two-by-two-nccl", "reference", "one-stage"),
    Check("job-twice", 150, jobs.run_twice),
    Check("job-killed", 90, jobs.kill, ("job-twice",)),
    Check("job-resumed", 90, jobs.resume, ("job-twice", "job-killed")),
    Check("saving-memory", 90, memory.check, gpus=1),
    Check("speed", 150, speed.check, gpus=1),
]


@dataclass
class Outcome:
    """What became of a check: ``status`` is "ok", "failed" or "skipped"."""

    name: str
    status: str
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    message: str = ""

    @property
    def line(self) -> str:
        """For people; a failure's message has what it knows in further lines."""
        said = {"ok": "ok", "failed": f"FAILED: {self.message}", "skipped": f"skipped: {self.message}"}[self.status]
        first, _, rest = said.partition("\n")
        figures = ", ".join(f"{name}: {_short(value)}" for name, value in self.figures.items())
        shown = f"{self.name:18} {self.seconds:5.1f} s  {first}" + (f"  ({figures})" if figures else "")
        return f"{shown}\n{rest}" if rest else shown


def _short(value: Any) -> str:
    """A figure as a line shows it: of deviations, the largest; of a sentence, its beginning."""
    if isinstance(value, dict):
        return f"≤ {max(value.values()):.1e}"
    return f"{value:.3g}" if isinstance(value, float) else textwrap.shorten(str(value), 100)


def run_checks(
    checks: Sequence[Check], bench: Bench, say: Callable[[Outcome], None], total_seconds: float = TOTAL_SECONDS
) -> list[Outcome]:
    """Run the checks in order, and tell of each as it ends.

    A check is begun only if all that it may take is left of ``total_seconds``.
    """
    end, outcomes = time.monotonic() + total_seconds, dict[str, Outcome]()
    for check in checks:
        reason, begin = _reason_to_skip(check, bench, outcomes, end - time.monotonic()), time.monotonic()
        if reason:
            outcome = Outcome(check.name, "skipped", message=reason)
        else:
            outcome = _run(check, replace(bench, deadline=begin + check.limit))
            outcome.seconds = round(time.monotonic() - begin, 1)
        outcomes[check.name] = outcome
        say(outcome)
    return list(outcomes.values())


def _reason_to_skip(check: Check, bench: Bench, outcomes: dict[str, Outcome], seconds_left: float) -> str:
    if bench.gpus < check.gpus:
        return f"needs {check.gpus} GPU{'s' * (check.gpus > 1)}, here {'is' if bench.gpus == 1 else 'are'} {bench.gpus}"
    for name in check.needs:
        if outcomes[name].status != "ok":
            verb = "failed" if outcomes[name].status == "failed" else "was skipped"
            return f"needs {name}, which {verb}"
    if seconds_left < check.limit:
        return f"may take {check.limit:.0f} s, and {max(seconds_left, 0):.0f} s are left"
    return ""


def _run(check: Check, bench: Bench) -> Outcome:
    try:
        return Outcome(check.name, "ok", figures=check.run(bench))
    except CheckFailed as fault:
        return Outcome(check.name, "failed", message=str(fault))
    except Exception as error:  # whatever it is, it is this check's, and the next ones go on
        return Outcome(check.name, "failed", message=f"{type(error).__name__}: {error}")


def closing_line(outcomes: Sequence[Outcome]) -> str:
    """Count what passed, failed, and was skipped."""
    passed, failed, skipped = (sum(one.status == status for one in outcomes) for status in ("ok", "failed", "skipped"))
    return f"gpu-check: {passed} passed, {failed} failed, {skipped} skipped"


def with_needed(names: Sequence[str], checks: Sequence[Check]) -> list[Check]:
    """The checks of these names and all that they need, in order."""
    wanted = set(names)
    for check in reversed(checks):  # what is needed stands before
        wanted |= set(check.needs) if check.name in wanted else set()
    return [check for check in checks if check.name in wanted]


def look_at_machine(folder: Path) -> dict[str, Any]:
    """What `tests.gpu.machine` says, in a process of its own.

    Raises:
        CheckFailed: it found an error, or no end.
    """
    bench = Bench("cuda", 0, 0, folder, time.monotonic() + MACHINE_SECONDS)
    run_ranks(bench, ["tests.gpu.machine", folder / "machine.json"], "machine")
    return json.loads((folder / "machine.json").read_text(encoding="utf-8"))


def default_output(machine: dict[str, Any]) -> Path:
    """A file of the experiment's results that does not exist yet: ``<date>-<number>x-<card>.json``."""
    card = re.sub(r"[^A-Za-z0-9]+", "-", machine["gpus"][0]).strip("-").lower()
    stem = f"{machine['date'][:10]}-{machine['count']}x-{card}"
    names = [f"{stem}.json", *(f"{stem}-{number}.json" for number in range(2, 1000))]
    return next(RESULTS / name for name in names if not (RESULTS / name).exists())


def main(words: Sequence[str] | None = None) -> int:
    """Run the checks; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the figures; must not exist (on GPUs: a new one)")
    parser.add_argument("--cpu", action="store_true", help="let the CPU stand in for a GPU, to try the checks")
    parser.add_argument("--only", nargs="+", choices=[check.name for check in CHECKS], help="and what they need")
    arguments = parser.parse_args(words)
    if arguments.output and arguments.output.exists():
        parser.error(f"--output: {arguments.output} exists already, and is not overwritten")
    checks = with_needed(arguments.only, CHECKS) if arguments.only else CHECKS
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder:
        return _check_all(checks, Path(folder), arguments.output, arguments.cpu)


def _check_all(checks: Sequence[Check], folder: Path, output: Path | None, on_cpu: bool) -> int:
    machine: dict[str, Any] = {}
    outcomes: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        print(outcome.line, flush=True)
        outcomes.append(outcome)
        if output:
            report = {"machine": machine, "device": "cpu" if on_cpu else "cuda", "checks": list(map(asdict, outcomes))}
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    reason = ""
    try:
        machine |= look_at_machine(folder)
        print(f"{', '.join(machine['gpus']) or 'no GPU'}; torch {machine['torch']}, CUDA {machine['cuda'] or 'none'}")
        if not (machine["gpus"] or on_cpu):
            reason = "there is no GPU here"
    except CheckFailed as fault:
        tell(Outcome("machine", "failed", message=str(fault)))
        reason = "nothing is known of the machine"
    if reason:
        for check in checks:
            tell(Outcome(check.name, "skipped", message=reason))
    else:
        gpus = 0 if on_cpu else machine["count"]
        output = output or (default_output(machine) if gpus else None)
        run_checks(checks, Bench("cpu" if on_cpu else "cuda", gpus, machine["gpu_memory"], folder, 0.0), tell)
    if output:
        with contextlib.suppress(ValueError):
            output = output.resolve().relative_to(ROOT)
        print(f"figures: {output}")
    print(closing_line(outcomes))
    return int(any(outcome.status == "failed" for outcome in outcomes))


if __name__ == "__main__":
    keep_printing()
    sys.exit(main())
