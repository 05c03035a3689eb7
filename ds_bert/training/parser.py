"""Arguments from flags, or from a JSON file with flags after it overriding; values are checked against their types."""

import argparse
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from transformers import HfArgumentParser

from ds_bert.engine.cuda_environment import set_pipeline_defaults
from ds_bert.errors import UserError
from ds_bert.files import read_json

T = TypeVar("T")


class _Parser(HfArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{self.prog}: {message} (--help lists the arguments)")


def parse_arguments(kind: type[T], argv: Sequence[str] | None = None) -> tuple[T, set[str]]:
    """Read arguments of the dataclass ``kind``.

    Args:
        kind: a dataclass.
        argv: ``[run.json] [--flag value …]``; default: the process's arguments. Launchers may put a flag before the
            file.

    Returns:
        The arguments, and the names of those that the user gave.

    Raises:
        UserError: an unknown flag or key, or a value that is not of its type.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(kind, description=kind.__doc__, allow_abbrev=False)
    parser.add_argument("json_file", nargs="?", help="JSON file with any of the arguments below; flags override it.")
    for action in parser._actions:
        if action.dest != "help":
            action.default = argparse.SUPPRESS
    given = vars(parser.parse_args(words))
    json_file = given.pop("json_file", None)
    values = (_read_values(kind, Path(json_file)) if json_file else {}) | given
    if values.get("stage_map") or values.get("num_stages", 1) > 1:
        set_pipeline_defaults()  # here, as what jobs import next asks for GPUs
    return kind(**values), set(values)


def _read_values(kind: type, path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds a {type(data).__name__}, needed is an object of arguments and values")
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    values = {}
    for key, value in data.items():
        if key not in known:
            raise UserError(f"{path}: unknown argument {key!r} (--help lists the arguments)")
        values[key] = _checked(value, hints[key], f"{path}: {key}")
        choices = known[key].metadata.get("choices")
        if choices and value not in choices:
            raise UserError(f"{path}: {key} is {value!r}, needed is one of {', '.join(choices)}")
    return values


def _checked(value: Any, hint: Any, where: str) -> Any:
    """Return ``value`` if it is of the type that ``hint`` names; an int passes for a float."""
    if typing.get_origin(hint) is list:
        if type(value) is not list:
            raise UserError(f"{where} is {value!r} (a {type(value).__name__}), needed is a list")
        return [_checked(item, typing.get_args(hint)[0], f"{where}[{place}]") for place, item in enumerate(value)]
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for type_ in allowed:
        if type(value) is type_:
            return value
        if type_ is float and type(value) is int:
            return float(value)
    names = " or ".join("null" if type_ is type(None) else type_.__name__ for type_ in allowed)
    raise UserError(f"{where} is {value!r} (a {type(value).__name__}), needed is a value of type {names}")
