"""Imports point one way, so that a room can be understood, and changed, without those above it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ds_bert"
BASE = {"errors", "files", "command_line", "terminal"}
# Each room, and the rooms that it may import from.
ALLOWED = {
    "terminal": set(),
    "errors": {"terminal"},
    "files": {"errors"},
    "command_line": {"errors", "terminal"},
    "stage_map_faults": BASE,
    "stage_map": BASE | {"stage_map_faults"},
    "schedules": set(),
    "modeling": BASE,
    "data": BASE,
    "checkpoint": BASE | {"modeling", "stage_map"},
    "cluster": BASE | {"modeling", "stage_map"},
    "tasks": BASE | {"modeling", "data"},
    "engine": BASE | {"schedules", "stage_map"},
    "multitask": BASE | {"training", "engine", "checkpoint", "tasks", "data", "modeling", "schedules", "stage_map"},
    "training": BASE | {"engine", "checkpoint", "tasks", "data", "modeling", "schedules", "stage_map"},
    "meta.tasks": BASE | {"tasks", "data"},
    "meta": BASE
    | {"meta.tasks", "training", "engine", "checkpoint", "tasks", "data", "modeling", "schedules", "stage_map"},
    "jobs": BASE | {"multitask", "meta", "training", "engine", "checkpoint", "tasks", "data", "modeling", "stage_map"},
    "commands": BASE
    | {"meta.tasks", "training", "cluster", "checkpoint", "data", "modeling", "stage_map", "stage_map_faults"},
    "cli": BASE | {"commands"},
}
WITHOUT_TORCH = (
    "terminal",
    "errors",
    "files",
    "stage_map",
    "stage_map_faults",
    "schedules",
    "data",
    "meta.tasks",
    "cluster",
    "command_line",
)
# Only transformers reads a tokenizer as transformers does; it brings torch along, so it is imported when one is read.
READ_TOKENIZERS = ("tokenizer_files.py", "vocabulary.py")


def modules() -> list[tuple[str, Path]]:
    """(room, file) of every module."""
    files = sorted(PACKAGE.rglob("*.py"))
    return [
        (room_of(*file.relative_to(PACKAGE).with_suffix("").parts), file)
        for file in files
        if file.parent != PACKAGE or file.name != "__init__.py"
    ]


def room_of(*parts: str) -> str:
    """The innermost room of a module, given the parts of its name after ``ds_bert``."""
    inner = ".".join(parts[:2])
    return inner if inner in ALLOWED else parts[0]


def imported(file: Path, at_once: bool = False) -> set[str]:
    """Full names of what a file imports, inside functions too or ``at_once``."""
    names = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(("room", "file"), modules(), ids=lambda value: getattr(value, "name", value))
def test_a_room_imports_only_from_below(room: str, file: Path) -> None:
    names = [name.split(".") for name in imported(file)]
    rooms = {room_of(*parts[1:]) for parts in names if parts[0] == "ds_bert" and len(parts) > 1}
    assert rooms - {room, "__version__"} <= ALLOWED[room]
    assert "pipelines" not in {parts[0] for parts in names}
    if room in WITHOUT_TORCH:
        late = {"transformers"} if (room, file.name) in {("data", name) for name in READ_TOKENIZERS} else set()
        assert not {parts[0] for parts in names} & ({"torch", "deepspeed", "transformers"} - late)
        assert not {name.partition(".")[0] for name in imported(file, at_once=True)} & late
