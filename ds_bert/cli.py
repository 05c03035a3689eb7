"""`ds-bert`: everything that needs no launcher."""

import sys
from collections.abc import Sequence

from ds_bert.command_line import take_extensions
from ds_bert.commands import make_parser
from ds_bert.errors import exit_on_user_error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand named in ``argv`` (default: the process's arguments) and return its exit status."""
    return exit_on_user_error(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(arguments: list[str]) -> int | None:
    arguments = take_extensions(arguments)
    chosen = [word for word in arguments if not word.startswith("-")][:1]
    parsed = make_parser(chosen).parse_args(arguments)
    return parsed.run(parsed)


if __name__ == "__main__":
    sys.exit(main())
