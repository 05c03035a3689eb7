"""A corpus that every machine has: the docstrings of Python's standard library."""

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from ds_bert.data.corpus import RawDocument
from ds_bert.errors import UserError

_PASSED_OVER = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "ensurepip", "lib2to3"}
_FEWEST_WORDS = 4
_LEAST_PROSE = 0.85  # share of a paragraph's characters that are letters, spaces or common punctuation


def python_docs() -> Iterator[RawDocument]:
    """Yield one document of prose for each module of the standard library whose docstrings hold any.

    The modules are parsed, never imported. The order is that of their paths, so it is fixed for a Python release.

    Raises:
        UserError: this Python ships no source files.
    """
    found = False
    for path in _modules():
        paragraphs = list(_paragraphs_of_module(path))
        if paragraphs:
            found = True
            yield RawDocument(paragraphs, True, sum(len(paragraph) + 1 for paragraph in paragraphs))
    if not found:
        folder = sysconfig.get_paths()["stdlib"]
        raise UserError(
            f"{folder}: no docstrings in Python's standard library; --python_docs needs its .py files there"
        )


def _modules() -> Iterator[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if not _PASSED_OVER.intersection(path.relative_to(root).parts):
            yield path


def _paragraphs_of_module(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from prose_of_docstring(ast.get_docstring(node, clean=False) or "")


def prose_of_docstring(docstring: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring that are English prose, each joined to one line.

    Doctests, tables, signatures and indented code are left out.
    """
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = paragraph.splitlines()
        if not lines or lines[0][:1].isspace() or any(line.lstrip().startswith((">>>", "...")) for line in lines):
            continue
        text = " ".join(" ".join(line.split()) for line in lines)
        if _is_prose(text):
            yield text


def _is_prose(text: str) -> bool:
    plain = len(re.findall(r"[A-Za-z ,.;:'\-]", text))
    return (
        len(text.split()) >= _FEWEST_WORDS and plain >= _LEAST_PROSE * len(text) and bool(re.search(r"[a-z]{3}", text))
    )
