"""`ds-bert launch`: run any launcher's command, and start it again from its newest whole checkpoint after a crash."""

import argparse

from ds_bert.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--max_restarts",
        type=int,
        default=3,
        metavar="N",
        help="restarts in a row without a new checkpoint in the job's output_dir",
    )
    parser.add_argument(
        "command_line",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND …",
        help="such as: -- deepspeed --hostfile hosts pipelines/pretrain.py run.json",
    )


def run(arguments: argparse.Namespace) -> int:
    """Supervise the command and return the exit status of its last run."""
    from ds_bert.training.supervise import Supervisor

    words = arguments.command_line[1:] if arguments.command_line[:1] == ["--"] else arguments.command_line
    if not words:
        raise UserError("ds-bert launch: no command; needed is a launcher's, such as: -- deepspeed job.py run.json")
    if arguments.max_restarts < 0:
        raise UserError(f"--max_restarts is {arguments.max_restarts}, expected at least 0")
    return Supervisor(words, arguments.max_restarts).run()
