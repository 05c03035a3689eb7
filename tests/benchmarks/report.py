"""From the runs of all rounds to the table: samples/s of each system, and how many times each of them ds_bert is."""

from collections import defaultdict
from statistics import median

OURS = "ds_bert"
REFERENCE = "one_core"  # one process, so no peer of a pipeline on two
HEADER = ["precision", "system", "cut", "runs", "min", "median", "max", "first loss", "last loss", "ds_bert / it"]


def _by_round(runs: list[dict]) -> dict[str, dict[int, float]]:
    """Return system → round → samples/s."""
    result: dict[str, dict[int, float]] = defaultdict(dict)
    for run in runs:
        result[run["system"]][run["round"]] = run["samples_per_second"]
    return result


def _median_ratio(ours: dict[int, float], theirs: dict[int, float]) -> float | None:
    """Return the median over the rounds both ran in of ours / theirs, None without such a round."""
    ratios = [ours[number] / theirs[number] for number in ours if number in theirs]
    return median(ratios) if ratios else None


def summarise(runs: list[dict]) -> list[dict]:
    """Return one entry per precision and system: samples/s over the rounds, and the ratio of ds_bert to it.

    Where ds_bert ran, an entry "best peer" follows: the two-process peer with the highest median.
    """
    summary = []
    for precision in dict.fromkeys(run["precision"] for run in runs):
        of_precision = [run for run in runs if run["precision"] == precision]
        speeds = _by_round(of_precision)
        entries = []
        for system, by_round in speeds.items():
            last = next(run for run in reversed(of_precision) if run["system"] == system)
            entries.append(
                {
                    "precision": precision,
                    "system": system,
                    "cut": last["cut"],
                    "runs": len(by_round),
                    "min": min(by_round.values()),
                    "median": median(by_round.values()),
                    "max": max(by_round.values()),
                    "loss_first": last["loss_first"],
                    "loss_last": last["loss_last"],
                    "ratio": None if system == OURS else _median_ratio(speeds.get(OURS, {}), by_round),
                }
            )
        peers = [entry for entry in entries if entry["system"] != REFERENCE and not entry["system"].startswith(OURS)]
        if OURS in speeds and peers:
            best = max(peers, key=lambda entry: entry["median"])
            entries.append(best | {"system": f"best peer: {best['system']}"})
        summary += entries
    return summary


def table(summary: list[dict]) -> str:
    """Return the summary as aligned text; speeds in samples/s."""
    rows = [HEADER]
    for entry in summary:
        speeds = [f"{entry[key]:.2f}" for key in ("min", "median", "max")]
        losses = [f"{entry[key]:.3f}" for key in ("loss_first", "loss_last")]
        ratio = "" if entry["ratio"] is None else f"{entry['ratio']:.2f}"
        rows.append(
            [entry["precision"], entry["system"], entry["cut"] or "", str(entry["runs"]), *speeds, *losses, ratio]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    text_columns = 3
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def problems(runs: list[dict], tolerance: float = 0.02) -> list[str]:
    """Return a sentence for each run whose first loss is off the others' median by more than 2 %, or did not fall."""
    expected = median(run["loss_first"] for run in runs) if runs else 0.0
    found = []
    for run in runs:
        name = f"{run['system']} {run['precision']} round {run['round']}"
        if abs(run["loss_first"] - expected) > tolerance * expected:
            found.append(f"{name}: first loss {run['loss_first']:.4f}, the others have {expected:.4f}")
        if not run["loss_last"] < run["loss_first"]:
            found.append(f"{name}: the loss rose from {run['loss_first']:.4f} to {run['loss_last']:.4f}")
    return found
