"""Make self-supervised classification tasks of text, to meta-train on."""

import argparse
import time
from pathlib import Path

from ds_bert.commands.common import INTERRUPTED, made, num_cores
from ds_bert.data.corpus import DOCUMENT_ENDS, FORMATS, Reading
from ds_bert.meta.tasks.task_settings import DEFAULT_SIZES, KINDS, LAYOUTS, SAMPLINGS, Sizes, TaskSettings
from ds_bert.meta.tasks.text_to_tasks import FILE_LIST, PartSummary, make_tasks

_DEFAULTS = TaskSettings(Path(), ())
_PLAIN = (
    *("output_dir", "tokenizer_name", "kind", "num_tasks", "validation_share", "min_frequency", "sampling"),
    *("num_clusters", "max_sentences", "embeddings", "curriculum", "max_seq_length", "layout", "seed", "workers"),
    "tasks_per_shard",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    _add_text(parser)
    _add_tasks(parser)
    _add_classes(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", required=True, type=Path, help="a new folder, or one to resume")
    output.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=_DEFAULTS.layout,
        help="shards: memory-mapped; tfrecord, json: a file for each N, and data.json that lists them",
    )
    output.add_argument(
        "--tasks_per_shard", type=int, default=_DEFAULTS.tasks_per_shard, metavar="N", help="of the layout shards"
    )
    output.add_argument("--workers", type=int, default=num_cores(), help="processes (default: the cores there are)")


def _add_text(parser: argparse.ArgumentParser) -> None:
    text = parser.add_argument_group("text")
    text.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="files, folders or glob patterns; or one folder that ds-bert prepare wrote",
    )
    text.add_argument(
        "--tokenizer_name",
        metavar="PATH",
        help="the model's tokenizer: a folder, a vocab.txt or a SentencePiece model (default: that of the prepared "
        "folder, or of --embeddings)",
    )
    text.add_argument("--format", choices=FORMATS, default="auto", help="as in ds-bert prepare")
    text.add_argument("--text_key", default="text", help="the key of the text in JSON lines")
    text.add_argument("--document_end", choices=DOCUMENT_ENDS, default="blank_line", help="as in ds-bert prepare")


def _add_tasks(parser: argparse.ArgumentParser) -> None:
    tasks = parser.add_argument_group("tasks")
    tasks.add_argument(
        "--kind",
        choices=KINDS,
        default=_DEFAULTS.kind,
        help="smlmt: which word is masked; sentence-clusters: which cluster a sentence is from; pairs: "
        "sentences that follow one another, or are from one document, or from two",
    )
    tasks.add_argument("--ways", nargs="+", type=int, default=_DEFAULTS.ways, metavar="N", help="classes, in turn")
    tasks.add_argument("--num_tasks", type=int, default=_DEFAULTS.num_tasks, metavar="N", help="how many to make")
    tasks.add_argument("--support", type=int, default=DEFAULT_SIZES.support, metavar="N", help="support examples")
    tasks.add_argument("--query", type=int, default=DEFAULT_SIZES.query, metavar="N", help="query examples")
    tasks.add_argument("--shots", type=int, metavar="K", help="support examples of each class, instead of --support")
    tasks.add_argument("--queries", type=int, metavar="K", help="query examples of each class, instead of --query")
    tasks.add_argument("--max_seq_length", type=int, default=_DEFAULTS.max_seq_length, metavar="N", help="tokens")
    tasks.add_argument(
        "--validation_share",
        type=float,
        default=0.0,
        metavar="S",
        help="share of words (clusters, documents) kept for OUTPUT_DIR/validation, and of tasks made of them",
    )
    tasks.add_argument("--seed", type=int, default=0, help="of all that is drawn")


def _add_classes(parser: argparse.ArgumentParser) -> None:
    classes = parser.add_argument_group("classes of a task")
    classes.add_argument(
        "--min_frequency",
        type=int,
        default=_DEFAULTS.min_frequency,
        metavar="N",
        help="sentences that a word must stand in",
    )
    classes.add_argument(
        "--sampling",
        choices=SAMPLINGS,
        default=_DEFAULTS.sampling,
        help="words (clusters) alike likely, by the logarithm of their frequency, or of one cluster: harder",
    )
    classes.add_argument("--curriculum", action="store_true", help="classes of a task get ever more alike")
    classes.add_argument(
        "--embeddings",
        type=Path,
        help="folder of a model whose word embeddings say what is alike (default: words of the same sentences are)",
    )
    classes.add_argument(
        "--num_clusters", type=int, metavar="N", help="of words, or of sentences (default: by their number)"
    )
    classes.add_argument(
        "--max_sentences",
        type=int,
        default=_DEFAULTS.max_sentences,
        metavar="N",
        help="sentences to cluster, or to compare words by",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the tasks, print what was made and what to do next."""
    if arguments.embeddings:
        from ds_bert.checkpoint.folders import say_on_stderr
        from ds_bert.checkpoint.pretrained import model_in

        arguments.embeddings = model_in(arguments.embeddings, say_on_stderr)
    settings = TaskSettings(
        **{name: getattr(arguments, name) for name in _PLAIN},
        input=tuple(arguments.input),
        ways=tuple(arguments.ways),
        sizes=Sizes(arguments.support, arguments.query, arguments.shots, arguments.queries),
        reading=Reading(arguments.format, arguments.text_key, arguments.document_end),
    )
    begin = time.monotonic()
    summaries = made(lambda: make_tasks(settings), settings.output_dir)
    if summaries is None:
        return INTERRUPTED
    for summary in summaries:
        _print_summary(summary)
    listed = settings.output_dir if settings.layout == "shards" else settings.output_dir / FILE_LIST
    print(f"made in {time.monotonic() - begin:.0f} s")
    print(f"next: deepspeed pipelines/meta_train.py --task_train_files {listed} --model_name_or_path … --output_dir …")
    return 0


def _print_summary(summary: PartSummary) -> None:
    classes = "" if summary.num_classes is None else f", of {summary.num_classes:,} words or clusters"
    print(f"{summary.folder}: {summary.num_tasks:,} tasks of {summary.num_examples:,} examples{classes}")
