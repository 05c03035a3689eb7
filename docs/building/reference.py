"""Reference pages, made of what the code declares: flags of jobs, arguments of `ds-bert`, docstrings of modules."""

import argparse
import importlib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ds_bert.command_line import FlagParser, load_named
from ds_bert.commands import COMMANDS, module_name
from ds_bert.training.declaration import Bounds, Flag, Kind, Resume, Subject, flags_of
from ds_bert.training.parser import spell_default
from ds_bert.training.unknown import JOBS, successors

_AT_RESUME = {Resume.SAME: "must stay", Resume.TOLD: "may change, is said", Resume.CONTENT: "what it leads to counts",
              Resume.FREE: "may change"}  # fmt: skip
_WORDS = {bool: "`true` or `false`", int: "integer", float: "number", str: "text"}


def jobs_pages() -> dict[str, str]:
    """A page for each job: {its name, as "pretrain": Markdown}."""
    return {Path(script).stem: _job_page(script, load_named(named)) for script, named in JOBS.items()}


def command_pages() -> dict[str, str]:
    """A page for each command of `ds-bert`: {its name: Markdown}."""
    return {name: _command_page(name, summary) for name, summary in COMMANDS.items()}


def api_pages(package: Path) -> dict[str, list[str]]:
    """Full names of the modules in each folder of ``package``, and of its own files under its name."""
    found: dict[str, list[str]] = {}
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        parts = place.parent.parts if path.stem == "__init__" else place.with_suffix("").parts
        folder = place.parts[0] if len(place.parts) > 1 else package.name
        found.setdefault(folder, []).append(".".join((package.name, *parts)))
    return found


def index_page() -> str:
    """What the columns of the jobs' tables mean, and where to find what."""
    meanings = [(_AT_RESUME[resume], f"A resumed run {resume.value}.") for resume in Resume]
    return "\n".join(
        [
            "# Reference",
            "",
            "These pages are made of the code when the site is built: flags of their declarations, commands of their "
            "parsers, modules of their docstrings.",
            "",
            "Every flag of a job may also stand in a JSON file, under its name without the hyphens, or be an argument "
            "of `ds_bert.jobs.run`. A flag of `true` or `false` is switched on by itself. Where DeepSpeed's JSON has a "
            'place for the same value, it is named; `"auto"` there takes the flag\'s.',
            "",
            *_table(("At `--resume`", "is"), meanings),
        ]
    )


def other_names_page() -> str:
    """What transformers, DeepSpeed and others call by another name, with what a job says of it."""
    rows = [(_code(f"--{name}"), _prose("; or: ".join(sentences))) for name, sentences in sorted(successors().items())]
    about = "A job that is given one of these names refuses it, with the first of the sentences that fits the job."
    return "\n".join(["# Names elsewhere", "", about, "", *_table(("Name", "What is said of it"), rows)])


def module_page(folder: str, modules: Sequence[str]) -> str:
    """The page of a folder's modules, for mkdocstrings to fill in."""
    title = folder if folder == modules[0] else f"{modules[0].partition('.')[0]}.{folder}"
    return "\n".join([f"# {title}", "", *(f"::: {module}\n" for module in modules)])


def _job_page(script: str, kind: type) -> str:
    name, flags, hints = Path(script).stem, flags_of(kind), typing.get_type_hints(kind)
    about = importlib.import_module(f"ds_bert.jobs.{name}").__doc__ or ""
    lines = [f"# {name}", "", f"`{script}`, or the module `ds_bert.jobs.{name}`.", "", _prose(about), ""]
    for subject in Subject:
        rows = [
            (
                _anchored(f"--{name}"),
                _type(flag, hints[name]),
                _code(spell_default(flag)) if flag.default not in (None, []) else flag.unset,
                _what(flag),
                _AT_RESUME[flag.resume],
            )
            for name, flag in flags.items()
            if flag.subject is subject
        ]
        if rows:
            heading = subject.value[0].upper() + subject.value[1:]
            lines += [f"## {heading}", "", *_table(("Flag", "Takes", "Default", "What", "At `--resume`"), rows), ""]
    return "\n".join(lines)


def _type(flag: Flag, hint: Any) -> str:
    if flag.choices is not None:
        return ", ".join(_code(choice) for choice in flag.choices)
    if flag.kind is Kind.STEPS:
        return "step or range, as `10-12`"
    is_list = typing.get_origin(hint) is list
    named = typing.get_args(hint) if is_list or isinstance(hint, types.UnionType) else (hint,)
    plain = next(type_ for type_ in named if type_ is not type(None))
    word = ("paths" if is_list else "path") if flag.kind.is_path else _WORDS[plain] + "s" * is_list
    bounds = str(flag.allowed) if isinstance(flag.allowed, Bounds) else ""
    return f"{word}, {bounds.removeprefix('a number ')}" if bounds else word


def _what(flag: Flag) -> str:
    more = f" In DeepSpeed's JSON: {_code(flag.deepspeed)}." if flag.deepspeed else ""
    return _prose(flag.help) + more


def _command_page(name: str, summary: str) -> str:
    parser = FlagParser(prog=f"ds-bert {name}")
    importlib.import_module(f"ds_bert.commands.{module_name(name)}").add_arguments(parser)
    return "\n".join([f"# ds-bert {name}", "", f"{summary[0].upper()}{_prose(summary[1:])}.", "", *_arguments(parser)])


def _arguments(parser: argparse.ArgumentParser, action: str = "") -> Iterator[str]:
    """Usage and tables of the arguments of a parser, or of its action of that name; then those of its actions."""
    parser.formatter_class = partial(argparse.HelpFormatter, width=100)
    yield from ("```", parser.format_usage().removeprefix("usage: ").rstrip(), "```", "")
    below = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    groups: dict[str, list[argparse.Action]] = {}
    for group in parser._action_groups:
        shown = [each for each in group._group_actions if each not in below and each.dest != "help"]
        if shown:  # argparse's own two groups are one here
            is_own = group in (parser._positionals, parser._optionals)
            groups.setdefault("arguments" if is_own else group.title or "", []).extend(shown)
    for title, shown in groups.items():
        if len(groups) > 1:
            yield from (f"## {title[0].upper()}{title[1:]}", "")
        yield from _table(("Argument", "Takes", "Default", "What"), (_row(parser, each, action) for each in shown))
        yield ""
    for actions in below:
        for name, chosen in actions.choices.items():
            yield from (f"## {name}", "", *_arguments(chosen, name))


def _row(parser: argparse.ArgumentParser, argument: argparse.Action, action: str) -> tuple[str, str, str, str]:
    name = argument.option_strings[-1] if argument.option_strings else str(argument.metavar or argument.dest)
    text, default = _split_default(parser._get_formatter()._expand_help(argument) if argument.help else "")
    is_unset = argument.default is None or argument.default is False or argument.default in (argparse.SUPPRESS, [])
    if argument.required and argument.option_strings:
        default = "needed"
    elif not is_unset and default in ("", str(argument.default)):
        default = _code(str(argument.default))
    if argument.choices is not None:
        takes = ", ".join(_code(str(choice)) for choice in argument.choices)
    elif argument.nargs == 0:
        takes = "nothing"
    else:
        words: dict[Any, str] = {int: "integer", float: "number", Path: "path"}
        takes = words.get(argument.type, "text") + (", several" if argument.nargs in ("+", "*") else "")
    return _anchored(name, action), takes, _prose(default), _prose(text)


def _split_default(text: str) -> tuple[str, str]:
    """Take "(default: 3)" off the end of a help text; return text and default."""
    found = re.search(r"(?:\s*\(|;\s*|^)default: ([^()]*)\)?$", text)
    return (text[: found.start()], found[1]) if found else (text, "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _anchored(name: str, action: str = "") -> str:
    """A flag that can be linked to, as #learning_rate; that of a command's action as #make-stages."""
    anchor = f"{action}-{name.lstrip('-')}".lstrip("-")
    return f"[{_code(name)}](#{anchor}){{#{anchor}}}" if re.fullmatch(r"[\w-]+", anchor) else _code(name)


def _code(text: str) -> str:
    return f"`{text}`"


def _prose(text: str) -> str:
    """A help text, with its flags as code, and nothing that Markdown would take for HTML."""
    parts = re.split("(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part if part.startswith("`") else re.sub(r"(?<![\w-])--\w+", r"`\g<0>`", part.replace("<", "&lt;"))
        for part in parts
    )
