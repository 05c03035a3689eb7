"""Print the accuracies that run.sh has left as Markdown tables, one for each k: python summary.py FOLDER."""

import json
import statistics
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """A row for each task, then the average over tasks; per cent, mean ± deviation over splits."""
    for shots in sorted(folder.glob("*-shot")):
        found: dict[str, dict[str, dict[str, float]]] = {}
        for path in sorted(shots.glob("*/*/results.json")):
            data = json.loads(path.read_text(encoding="utf-8"))
            for method, row in data["summary"].items():
                found.setdefault(path.parent.parent.name, {})[method] = next(iter(row.values()))
        methods = list(dict.fromkeys(name for row in found.values() for name in row))
        print(f"\n| {shots.name} | {' | '.join(methods)} |\n|{'---|' * (len(methods) + 1)}")
        for task, row in found.items():
            cells = [f"{100 * row[name]['mean']:.1f} ± {100 * row[name]['deviation']:.1f}" for name in methods]
            print(f"| {task} | {' | '.join(cells)} |")
        means = [statistics.mean(row[name]["mean"] for row in found.values()) for name in methods]
        print(f"| average | {' | '.join(f'{100 * mean:.1f}' for mean in means)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
