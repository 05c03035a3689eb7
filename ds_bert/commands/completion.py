"""`ds-bert completion`: print a script that lets a shell complete commands, jobs and their flags."""

import argparse
from pathlib import Path

from ds_bert.commands import COMMANDS, make_parser

SHELLS = ("bash", "zsh", "fish")
# What is started by these, a job, is completed as if it were a command of theirs. (python has a completion of its own.)
LAUNCHERS = {
    "deepspeed": (
        *("--hostfile", "--include", "--exclude", "--num_nodes", "--num_accelerators", "--master_addr"),
        *("--master_port", "--ssh_port"),
    ),
    "torchrun": (
        *("--nnodes", "--nproc_per_node", "--node_rank", "--master_addr", "--master_port", "--rdzv_backend"),
        *("--rdzv_endpoint", "--rdzv_id", "--max_restarts"),
    ),
}
SWITCHES = {"deepspeed": ("-q", "--no_ssh", "--bind_cores_to_rank"), "torchrun": ("--standalone",)}
# Launchers start other scripts, too: (in shtab's script, in ours), to complete names of files where no job fits.
_ELSE_FILES = {
    "bash": [("complete -o bashdefault -F", "complete -o bashdefault -o default -F")],
    "zsh": [
        ("': :_shtab_{}_commands'", "': :{{_shtab_{}_commands || _files}}'"),
        ("      esac", "        *) _files ;;\n      esac"),
    ],
    "fish": [("complete -c {} -f\n", "")],
}
_FILES = ("PATH", "MAP", "RUN.JSON")  # what help writes in the place of a path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("shell", choices=SHELLS, help="whose script it is; the guide says where to put it")


def run(arguments: argparse.Namespace) -> None:
    """Print the script: it holds all flags and choices, so that nothing has to be started to complete a word."""
    print(_script(make_parser(COMMANDS), arguments.shell))
    for name in LAUNCHERS:
        script = _script(_launcher(name), arguments.shell)
        for found, instead in _ELSE_FILES[arguments.shell]:
            script = script.replace(found.format(name), instead.format(name))
        print(script)


def _script(parser: argparse.ArgumentParser, shell: str) -> str:
    import shtab

    _mark_files(parser, shtab.FILE)
    # zsh: a script that is sourced only tells it of the function, as one that is evaluated does
    return shtab.complete(parser, shell).replace(
        "$zsh_eval_context[-1] == eval ", "$zsh_eval_context[-1] == (eval|file) "
    )


def _launcher(name: str) -> argparse.ArgumentParser:
    """A parser of what a launcher is told, with the jobs in the place of subcommands."""
    from ds_bert.training.parser import JobParser
    from ds_bert.training.unknown import jobs

    parser = argparse.ArgumentParser(prog=name)
    for flag in SWITCHES[name]:
        parser.add_argument(flag, action="store_true")
    for flag in LAUNCHERS[name]:
        parser.add_argument(flag, metavar="PATH" if flag == "--hostfile" else None)
    scripts = parser.add_subparsers(parser_class=lambda kind, prog: JobParser(kind))  # type: ignore[call-overload]
    for kind, script in jobs().items():
        scripts.add_parser(script, help=kind.__doc__, kind=kind)
    return parser


def _mark_files(parser: argparse.ArgumentParser, files: object) -> None:
    """Say of each argument that names a file or folder that its words are completed by ``files``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _mark_files(below, files)
        elif action.type is Path or action.metavar in _FILES:
            action.complete = files  # type: ignore[attr-defined]
        elif action.option_strings and action.nargs == argparse.OPTIONAL:
            action.nargs = 0  # a switch, whose value nobody writes
