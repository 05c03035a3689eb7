"""What a process is told: by its command line, by the launcher that started it, by Python files of the user's own."""

import argparse
import importlib
import importlib.util
import logging
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ds_bert import terminal
from ds_bert.errors import UserError, did_you_mean

Told = Sequence[str] | Mapping[str, Any]
"""What a job is told: the words of a command line, or arguments by their names, with "json_file" among them."""

_LIST = "--help lists the arguments"
_WIDEST = 100  # columns that are still easy to read
_NONE = (None, False, argparse.SUPPRESS)  # defaults that go without saying
METAVARS: dict[Any, str] = {int: "N", float: "X", Path: "PATH"}  # by what reads a word; all else is TEXT


class HelpFormatter(argparse.HelpFormatter):
    """argparse's; it says defaults, and breaks lines between words only, so that flags and names can be copied."""

    def __init__(self, prog: str, max_help_position: int = 24) -> None:
        width = min(_WIDEST, shutil.get_terminal_size().columns) - 2
        super().__init__(prog, max_help_position=max_help_position, width=width)

    def start_section(self, heading: str | None) -> None:
        """Begin a group of flags."""
        super().start_section(terminal.heading(heading or ""))

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if "default" in text or not action.option_strings or any(default is none for none in _NONE):
            return text
        spelt = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{text} (default: {spelt})".replace("%", "%%") if spelt else text

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return METAVARS.get(action.type, "TEXT")

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)


class FlagParser(argparse.ArgumentParser):
    """argparse's parser; it raises `UserError`, and takes hyphens in flags for underscores.

    Where it chooses among commands and is given no word at all, it prints its help.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter} | kwargs)

    def explain(self, flag: str) -> str:
        """Say what an unknown flag was probably meant to be; "" if that cannot be told."""
        return did_you_mean(flag, dict.fromkeys(self._option_string_actions))

    def explain_value(self, name: str, value: Any, choices: Iterable[str]) -> str:
        """The same of a value that the flag ``name`` does not take."""
        return did_you_mean(str(value), choices)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but name unknown flags before anything that is missing because of them."""
        if args is not None and self._takes(argparse.PARSER):
            if not args:
                self.print_help()
                self.exit(2)
        elif args is not None:
            end = self._num_own(args)
            args = [*map(self._known_spelling, args[:end]), *args[end:]]
            flags = [word for word in args[:end] if word.startswith("--") and " " not in word]
            self._refuse_unknown([word for word in flags if not self._knows(word)])
        parsed, unknown = super().parse_known_args(args, namespace)
        self._refuse_unknown(unknown)
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Raise `UserError`."""
        raise UserError(f"{self.prog}: {message} ({_LIST})")

    def _takes(self, kind: str) -> bool:
        """Whether some of the words are for another command: one of its own (PARSER), or anybody's (REMAINDER)."""
        return any(action.nargs == kind for action in self._actions)

    def _num_own(self, words: Sequence[str]) -> int:
        """How many of the words, from the first on, may be flags and their values."""
        end = words.index("--") if "--" in words else len(words)  # what follows is no flag, whatever it looks like
        if not self._takes(argparse.REMAINDER):
            return end
        may_be_value = [False, *(word.startswith("-") and "=" not in word for word in words)]
        return next((n for n in range(end) if not words[n].startswith("-") and not may_be_value[n]), end)

    def _known_spelling(self, word: str) -> str:
        flag, equals, value = word.partition("=")
        spelt = "--" + flag[2:].replace("-", "_")
        known = flag.startswith("--") and flag not in self._option_string_actions
        return spelt + equals + value if known and spelt in self._option_string_actions else word

    def _knows(self, word: str) -> bool:
        flag, options = word.partition("=")[0], self._option_string_actions
        return flag in options or (self.allow_abbrev and any(option.startswith(flag) for option in options))

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        if words:
            flags = dict.fromkeys(word.partition("=")[0] if word.startswith("-") else word for word in words)
            raise UserError(f"{self.prog}: {refusal((flag, self.explain(flag)) for flag in flags)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            hint = self.explain_value(action.dest, value, choices)
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}, {wrong_choice(choices, hint)}")


def refusal(unknown: Iterable[tuple[str, str]]) -> str:
    """Return the sentence that refuses unknown arguments: (name as it was given, hint or "") of each."""
    named = [f"{name} ({hint})" if hint else name for name, hint in unknown]
    return f"unknown argument{'s' * (len(named) > 1)} {', '.join(named)}; {_LIST}"


def wrong_choice(choices: Sequence[str], hint: str) -> str:
    """Return what is needed in the place of a value that is none of the choices."""
    return f"needed is one of {', '.join(choices)}{'; ' + hint if hint else ''}"


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


def load_named(named: Any) -> Any:
    """Import what "module:name" names; what is no text is returned as it is."""
    if not isinstance(named, str):
        return named
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)


def take_extensions(words: Sequence[str]) -> list[str]:
    """Import the files that a command line begins with, after `FLAG`; return its other words."""
    if FLAG not in words[:1]:
        return list(words)
    end = next((n for n in range(1, len(words)) if not words[n].endswith(".py")), len(words))
    import_extensions(words[1:end])
    return list(words[end:])


def launcher_world() -> tuple[int, int]:
    """Return (rank, number of processes) as `deepspeed`, torchrun or SLURM's wrapper set them; (0, 1) without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def command_for(processes: int, environ: Mapping[str, str] | None = None) -> str:
    """Name the launcher's command that starts so many processes, such as `torchrun --nproc_per_node 4`.

    The launcher is the one in use; where there is none, both are named. A job of several nodes keeps as many of them as
    can have equally many processes: 4 processes after a start on 3 nodes are 2 on each of 2.

    Args:
        processes: of all nodes together.
        environ: the process's environment; default: this one's.
    """
    environ = os.environ if environ is None else environ
    if "TORCHELASTIC_RUN_ID" in environ:
        nodes, each = _spread(processes, environ.get("GROUP_WORLD_SIZE", "1"))
        return f"`torchrun --nnodes {nodes} --nproc_per_node {each}`" if nodes > 1 else _torchrun(processes)
    if "CROSS_SIZE" not in environ:  # set by deepspeed's launcher on each node
        return f"{_deepspeed(processes)} or {_torchrun(processes)}"
    nodes, each = _spread(processes, environ["CROSS_SIZE"])
    if {"SLURM_JOB_ID", "SLOTS"} <= environ.keys():  # our script exports SLOTS
        gpus = f" --gpus-per-node {each}" if environ.get("SLURM_GPUS_ON_NODE") else ""
        return f"`SLOTS={each} sbatch --nodes {nodes}{gpus} docker/slurm.sbatch`"
    if int(environ["CROSS_SIZE"]) > 1:
        return f"`deepspeed --num_nodes {nodes} --num_accelerators {each}`, or a hostfile with {processes} slots in all"
    return f"{_deepspeed(processes)}, or `deepspeed --hostfile` with {processes} slots in all"


def were_started(processes: int) -> str:
    """Say how many processes there are: "2 processes were started"."""
    return "1 process was started" if processes == 1 else f"{processes} processes were started"


def _spread(processes: int, nodes: str) -> tuple[int, int]:
    """(nodes, processes of each): the most of the ``nodes`` that can have equally many."""
    used = next(count for count in range(min(int(nodes), processes), 0, -1) if processes % count == 0)
    return used, processes // used


def _deepspeed(processes: int) -> str:
    return f"`deepspeed --num_accelerators {processes}`"


def _torchrun(processes: int) -> str:
    return f"`torchrun --nproc_per_node {processes}`"


# A receive that is posted ahead is a kernel that spins until its message comes, and whatever waits for it, waits for
# another rank, which may be waiting for this one. CUDA and NCCL read these before anything asks whether there is a GPU;
# so nothing is imported here, as libraries may ask.
_PIPELINE_DEFAULTS = {
    "CUDA_MODULE_LOADING": "EAGER",  # lazy loading waits for the device when a kernel is launched for the first time
    "CUDA_DEVICE_MAX_CONNECTIONS": "32",  # hardware queues: of 8, one waits behind the spinning kernel of another
    "NCCL_RUNTIME_CONNECT": "0",  # else NCCL connects an algorithm's peers in the middle of the step that first uses it
}


def set_pipeline_defaults() -> None:
    """Set what CUDA and NCCL read from the environment, where the user has not."""
    for name, value in _PIPELINE_DEFAULTS.items():
        os.environ.setdefault(name, value)


def quiet_libraries() -> None:
    """Keep from the terminal what says nothing new, before torch and DeepSpeed are imported; errors are still shown.

    torch warns of each address that has no name and of each try to connect, and DeepSpeed that there is no GPU; a job
    says itself whom it waits for, and what it computes on.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("DeepSpeed").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Setting accelerator to CPU")
