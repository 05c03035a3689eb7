"""Arguments from flags, or from a JSON file with flags after it overriding; values are checked against their types."""

import argparse
import copy
import os
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import Field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ds_bert.command_line import (
    METAVARS,
    FlagParser,
    HelpFormatter,
    Told,
    import_extensions,
    refusal,
    set_pipeline_defaults,
    wrong_choice,
)
from ds_bert.errors import UserError
from ds_bert.files import find_config, read_json
from ds_bert.training.declaration import Bounds, Flag, Kind, Subject, check_bounds, flags_of
from ds_bert.training.unknown import explain, explain_value, jobs

T = TypeVar("T")
_HELP = "A flag of true|false is switched on by itself or with true, and off with false."
_METAVARS = {**METAVARS, string_to_bool: "true|false", str: "TEXT"}


class JobParser(FlagParser, HfArgumentParser):
    """A parser of the arguments of the dataclass ``kind``; transformers' makes the flags of its fields.

    `--help` lists them under their subjects, each with its default and its bounds.
    """

    def __init__(self, kind: type) -> None:
        self.kind, self.flags = kind, flags_of(kind)
        self.groups: dict[Subject, Any] = {}
        super().__init__(
            kind,  # type: ignore[arg-type]  # HfArgumentParser's
            usage="%(prog)s [RUN.JSON] [--FLAG VALUE ...]",
            description=f"{kind.__doc__} {_HELP}",
            allow_abbrev=False,
            formatter_class=partial(HelpFormatter, max_help_position=6),
        )
        self.add_argument(
            "json_file", nargs="?", metavar="RUN.JSON", help="JSON file with any of the flags below, which override it."
        )
        for action in self._actions:
            if action.dest == "help":
                continue
            action.default = argparse.SUPPRESS
            action.option_strings = action.option_strings[:1]  # with hyphens they are read, but need not be shown
            if isinstance(action, argparse._StoreFalseAction):  # has the help of what it switches off
                action.help = f"The same as --{action.dest} false."
            elif action.dest in self.flags:
                action.metavar = _metavar_of(self.flags[action.dest], action)

    def _add_dataclass_arguments(self, kind: Any) -> None:
        self.groups = {subject: self.add_argument_group(subject.value) for subject in Subject}
        super()._add_dataclass_arguments(kind)

    def _parse_dataclass_field(self, parser: Any, declared: Field) -> None:
        """Make a flag of a field, with what its declaration knows in place of the field's metadata."""
        flag, shown = self.flags[declared.name], copy.copy(declared)
        choices = {} if flag.choices is None else {"choices": flag.choices}
        shown.metadata = {"help": _help_of(flag).replace("%", "%%"), **choices}  # type: ignore[assignment]
        super()._parse_dataclass_field(self.groups[flag.subject], shown)

    def check_choices(self, given: dict[str, Any]) -> None:
        """Refuse a value that is none of a flag's choices."""
        for action in self._actions:
            if action.dest in given:
                try:
                    super()._check_value(action, given[action.dest])
                except argparse.ArgumentError as error:
                    self.error(str(error))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Let it pass until `check_choices`: extensions, which are among the arguments, may add to the choices."""

    def explain(self, flag: str) -> str:
        """Say what an unknown flag is called here, or why it is not needed."""
        return explain(flag.lstrip("-"), self.kind, "--{}".format)

    def explain_value(self, name: str, value: Any, choices: Iterable[str]) -> str:
        """The same of a value."""
        return explain_value(name, value, choices)

    def _get_value(self, action: argparse.Action, word: str) -> Any:
        try:
            return super()._get_value(action, word)  # type: ignore[misc]
        except argparse.ArgumentError as error:
            hint = explain_value(action.dest, word)
            raise argparse.ArgumentError(action, f"{error.message}{'; ' + hint if hint else ''}") from None


def _metavar_of(flag: Flag, action: argparse.Action) -> str | None:
    """What `--help` writes in the place of a flag's value; None lets it list the choices."""
    if flag.choices is not None:
        return None
    return "PATH" if flag.kind.is_path else _METAVARS[action.type]  # type: ignore[index]


def _help_of(flag: Flag) -> str:
    """A flag's help with its default, and with its bounds if it has some."""
    bounds = [str(flag.allowed)] if isinstance(flag.allowed, Bounds) else []
    steps = ["a step or a range of steps, as 10-12"] if flag.kind is Kind.STEPS else []
    return f"{flag.help} ({'; '.join([f'default: {spell_default(flag)}', *bounds, *steps])})".lstrip()


def spell_default(flag: Flag) -> str:
    """A flag's default, as it is written; or what no value stands for."""
    if flag.default is None or flag.default == []:
        return flag.unset
    if isinstance(flag.default, list):
        return " ".join(map(str, flag.default))
    return str(flag.default).lower() if isinstance(flag.default, bool) else str(flag.default)


def parse_arguments(kind: type[T], told: Told | None = None) -> tuple[T, set[str]]:
    """Read arguments of the dataclass ``kind``.

    Args:
        kind: a dataclass.
        told: ``[run.json] [--flag value …]``, or the same by names; default: the process's arguments. Launchers may
            put a flag before the file.

    Returns:
        The arguments, and the names of those that the user gave.

    Raises:
        UserError: an unknown flag or key, or a value that is not of its type or out of its bounds.
    """
    parser = JobParser(kind)
    if isinstance(told, Mapping):
        given = {name: _as_in_json(value) for name, value in told.items()}
        json_file = given.pop("json_file", None)
        given = _check_values(kind, given, "")
    else:
        given = vars(parser.parse_args(list(sys.argv[1:] if told is None else told)))
        json_file = given.pop("json_file", None)
        import_extensions(given.get("extensions", []))
    values = _over(kind, _read_values(kind, Path(json_file)) if json_file else {}, given)
    parser.check_choices(given)
    named = values.get("recipe_defaults")
    everything = _over(kind, _recipe_defaults(kind, named) if named else {}, values)
    check_bounds(kind, everything)
    if values.get("stage_map") or values.get("num_stages", 1) > 1:
        set_pipeline_defaults()  # here, as what jobs import next asks for GPUs
    return kind(**everything), set(values)


def _over(kind: type, weaker: Mapping[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    """Unite values; what a stronger one puts aside, see ``replaces`` of a job's arguments, is left out."""
    pairs = getattr(kind, "replaces", {})
    aside = {pairs[name] for name, value in stronger.items() if name in pairs and value is not None}
    return {name: value for name, value in weaker.items() if name not in aside} | dict(stronger)


def _recipe_defaults(kind: type, name: str) -> dict[str, Any]:
    """Read what `--recipe_defaults` has for a job: a JSON object from the names of jobs to their flags' values.

    Raises:
        UserError: there is no such file, it is not of that form, or it has nothing for this job.
    """
    path = find_config("recipe_defaults", name)
    data, job = read_json(path), Path(jobs().get(kind, kind.__name__)).stem
    if not isinstance(data, dict) or not all(isinstance(values, dict) for values in data.values()):
        raise UserError(f"{path}: needed is an object from the names of jobs to objects of arguments and values")
    if job not in data:
        raise UserError(f"--recipe_defaults {name}: has nothing for {job}, only for {', '.join(data)}; leave it out")
    return _check_values(kind, data[job], f"{path}: {job}: ")


def _as_in_json(value: Any) -> Any:
    """Return what a value of Python's is in a JSON file: paths are strings there, and tuples lists."""
    if isinstance(value, tuple | list):
        return [_as_in_json(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _read_values(kind: type, path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds a {type(data).__name__}, needed is an object of arguments and values")
    return _check_values(kind, data, f"{path}: ")


def _check_values(kind: type, data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Compare values with their arguments' types; ``where`` they stand begins what is said of them."""
    hints = typing.get_type_hints(kind)
    known = flags_of(kind)
    if unknown := [key for key in data if key not in known]:
        raise UserError(f"{where}{refusal((repr(key), explain(key, kind, '{!r}'.format)) for key in unknown)}")
    values = {}
    for key, value in data.items():
        values[key] = _checked(value, hints[key], f"{where}{key}", key)
    import_extensions(values.get("extensions", []))
    for key, value in values.items():
        choices = known[key].choices
        if choices is not None and value not in choices:
            needed = wrong_choice(list(choices), explain_value(key, value, choices))
            raise UserError(f"{where}{key} is {value!r}, {needed}")
    return values


def _checked(value: Any, hint: Any, where: str, key: str) -> Any:
    """Return ``value`` if it is of the type that ``hint`` names; an int passes for a float."""
    if typing.get_origin(hint) is list:
        if type(value) is not list:
            raise UserError(f"{where} is {value!r} (a {type(value).__name__}), needed is a list")
        return [_checked(item, typing.get_args(hint)[0], f"{where}[{place}]", key) for place, item in enumerate(value)]
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for type_ in allowed:
        if type(value) is type_:
            return value
        if type_ is float and type(value) is int:
            return float(value)
    names = " or ".join("null" if type_ is type(None) else type_.__name__ for type_ in allowed)
    meant = explain_value(key, value)
    needed = f"needed is a value of type {names}{'; ' + meant if meant else ''}"
    raise UserError(f"{where} is {value!r} (a {type(value).__name__}), {needed}")
