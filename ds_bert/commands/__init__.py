"""The subcommands of `ds-bert`, one module each."""

import importlib
import keyword
from collections.abc import Collection

from ds_bert import __version__
from ds_bert.command_line import FLAG, FlagParser

# One module for each. It has a docstring, ``add_arguments(parser)`` and ``run(arguments) -> int | None``.
COMMANDS = {
    "prepare": "turn text into memory-mapped shards of token ids",
    "tasks": "make self-supervised classification tasks of text, to meta-train on",
    "stage-map": "make, check or show a stage map",
    "launch": "run a launcher's command, and start it again after a crash",
    "launch-check": "compare a stage map, a run and the nodes of a hostfile before anything starts",
    "import": "turn another system's checkpoint into a Hugging Face folder",
    "export": "write a checkpoint as a Hugging Face folder",
    "inspect": "show what a checkpoint, a run or a Hugging Face folder holds",
    "verify": "compare every file of a checkpoint, or of prepared data, with its checksum",
    "timeline": "draw the schedule of a run as it ran",
    "cache": "show what encoded data earlier jobs have left, and how much disk it takes; or remove it",
    "completion": "print a script that lets a shell complete commands, jobs and their flags",
}


def make_parser(needed: Collection[str]) -> FlagParser:
    """Return the parser of `ds-bert`.

    Args:
        needed: the commands that get their flags; others are listed only, as importing them takes its time.
    """
    more = f"{FLAG} FILE.py ... before COMMAND imports files of your own that add families or heads."
    parser = FlagParser(prog="ds-bert", description="Everything that needs no launcher.", epilog=more)
    parser.add_argument("--version", action="version", version=f"ds-bert {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name in needed:
            module = importlib.import_module(f"ds_bert.commands.{module_name(name)}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def module_name(command: str) -> str:
    """Return what the module of a command is called."""
    return f"{command}_" if keyword.iskeyword(command) else command.replace("-", "_")
