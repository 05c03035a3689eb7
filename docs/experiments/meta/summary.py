"""Print the averages over tasks of what run.sh has left, method by method: python summary.py FOLDER."""

import json
import statistics
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Average each method's accuracy over the tasks, by k."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for path in sorted(folder.glob("*/results.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        for method, row in data["summary"].items():
            for k, values in row.items():
                found.setdefault((k, method), {})[data["task"]] = values["mean"]
    for (k, method), tasks in sorted(found.items()):
        print(f"k = {k:>2}  {method:<12} {100 * statistics.mean(tasks.values()):5.1f} % over {len(tasks)} tasks")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
