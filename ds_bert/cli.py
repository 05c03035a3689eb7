"""`ds-bert`: everything that needs no launcher."""

import importlib
import keyword
import sys
from collections.abc import Sequence

from ds_bert import __version__
from ds_bert.command_line import FLAG, FlagParser, take_extensions
from ds_bert.errors import exit_on_user_error

# One module of ds_bert/commands/ for each. A module has a docstring (the help's first line), ``add_arguments(parser)``
# and ``run(arguments) -> int | None``; only the one asked for is imported, so that the command starts at once.
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
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand named in ``argv`` (default: the process's arguments) and return its exit status."""
    return exit_on_user_error(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(arguments: list[str]) -> int | None:
    arguments = take_extensions(arguments)
    more = f"{FLAG} FILE.py ... before COMMAND imports files of your own that add families or heads."
    parser = FlagParser(prog="ds-bert", description=__doc__, epilog=more)
    parser.add_argument("--version", action="version", version=f"ds-bert {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == chosen:
            module = importlib.import_module(f"ds_bert.commands.{_module_name(name)}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    return parsed.run(parsed)


def _module_name(command: str) -> str:
    return f"{command}_" if keyword.iskeyword(command) else command.replace("-", "_")


if __name__ == "__main__":
    sys.exit(main())
