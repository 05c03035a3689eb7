"""Python files of a user's own that add families, heads, schedules or optimizers; see docs/extending.md."""

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from ds_bert.errors import UserError

FLAG = "--extensions"


def import_extensions(files: Sequence[str | Path]) -> None:
    """Run each file once, as a module of the name that it has without ``.py``.

    Raises:
        UserError: a file is not there, its name is a module's that is loaded already, or it fails.
    """
    for path in map(Path, files):
        if path.suffix != ".py" or not path.is_file():
            raise UserError(f"{FLAG} {path}: no such file; needed is a Python file that ends in .py")
        loaded = sys.modules.get(path.stem)
        if loaded is None:
            _run(path)
        elif Path(getattr(loaded, "__file__", None) or "").resolve() != path.resolve():
            raise UserError(f"{FLAG} {path}: a module {path.stem} is loaded already; give the file another name")


def _run(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses and pickles look for it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f", line {lines[-1]}" if lines else ""
        raise UserError(f"{FLAG} {path}{where}: {type(error).__name__}: {error}") from error


def take_extensions(words: Sequence[str]) -> list[str]:
    """Import the files that a command line begins with, after `FLAG`; return its other words."""
    if FLAG not in words[:1]:
        return list(words)
    end = next((n for n in range(1, len(words)) if not words[n].endswith(".py")), len(words))
    import_extensions(words[1:end])
    return list(words[end:])
