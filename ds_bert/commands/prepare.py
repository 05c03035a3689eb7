"""Turn text into memory-mapped shards of token ids."""

import argparse
from pathlib import Path

from ds_bert.commands.common import INTERRUPTED, made, num_cores
from ds_bert.data.corpus import DOCUMENT_ENDS, FORMATS, Reading
from ds_bert.data.prepare import BAD_RECORDS, PartSummary, PrepareSettings, prepare, read_bad_records
from ds_bert.terminal import warn

_MOST_UNKNOWN = 0.01
_SHORT_DOCUMENT = 128
_MOST_SHOWN = 20  # of bad records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    text = parser.add_argument_group("text (one of the two)")
    text.add_argument("--input", nargs="+", default=[], metavar="PATH", help="files, folders or glob patterns")
    text.add_argument("--python_docs", action="store_true", help="the docstrings of Python's standard library")
    text.add_argument(
        "--format",
        choices=FORMATS,
        default="auto",
        help="lines: a sentence a line; prose: a paragraph a line; jsonl: an object a line; auto: told by the content",
    )
    text.add_argument("--text_key", default="text", help="the key of the text in JSON lines")
    text.add_argument(
        "--document_end",
        choices=DOCUMENT_ENDS,
        default="blank_line",
        help="what ends a document in text files: a blank line, or only the end of the file",
    )
    text.add_argument(
        "--skip_bad_records",
        type=int,
        default=0,
        metavar="N",
        help="pass over up to N lines that are not UTF-8 or hold no text, and list them",
    )
    vocabulary = parser.add_argument_group("vocabulary (one of the two)")
    vocabulary.add_argument(
        "--tokenizer_name", metavar="PATH", help="a tokenizer's folder, a vocab.txt or a SentencePiece model"
    )
    vocabulary.add_argument(
        "--train_vocab", type=int, metavar="N", help="train N WordPiece tokens, uncased, on the text"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", required=True, type=Path, help="a new folder, or one to resume")
    output.add_argument(
        "--validation_share", type=float, default=0.0, metavar="S", help="share of documents for OUTPUT_DIR/validation"
    )
    output.add_argument("--shard_tokens", type=_number, default="16M", help="tokens of a shard, such as 16M")
    output.add_argument("--num_workers", type=int, default=num_cores(), help="processes (default: the cores there are)")


def run(arguments: argparse.Namespace) -> int:
    """Prepare the data folder, print what it holds and what to do next."""
    settings = PrepareSettings(
        output_dir=arguments.output_dir,
        input=tuple(arguments.input),
        python_docs=arguments.python_docs,
        tokenizer_name=arguments.tokenizer_name,
        train_vocab=arguments.train_vocab,
        reading=Reading(arguments.format, arguments.text_key, arguments.document_end),
        num_workers=arguments.num_workers,
        shard_tokens=arguments.shard_tokens,
        validation_share=arguments.validation_share,
        skip_bad_records=arguments.skip_bad_records,
    )
    summaries = made(lambda: prepare(settings, _say), settings.output_dir)
    if summaries is None:
        return INTERRUPTED
    for summary in summaries:
        _print_summary(summary)
    _print_bad_records(settings.output_dir)
    model = "--model_name_or_path …" if arguments.tokenizer_name else "--config_name …"
    print(f"next: deepspeed pipelines/pretrain.py --train_path {settings.output_dir} {model} --output_dir …")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _print_summary(summary: PartSummary) -> None:
    print(
        f"{summary.folder}: {summary.num_documents:,} documents, {summary.num_sentences:,} sentences, "
        f"{summary.num_tokens:,} tokens, vocabulary {summary.vocab_size:,}, "
        f"{summary.unk_token} {summary.unknown_share:.2%}"
    )
    if summary.num_empty_documents:
        print(f"  {summary.num_empty_documents:,} documents without a token were left out")
    if summary.unknown_share > _MOST_UNKNOWN:
        warn(
            f"{summary.folder}: more than {_MOST_UNKNOWN:.0%} of the tokens are {summary.unk_token}: does the "
            "vocabulary suit the text?"
        )
    if summary.num_documents < 2:
        warn(f"{summary.folder}: sentence pairs need two documents at least; set documents apart by blank lines")
    elif summary.num_tokens < _SHORT_DOCUMENT * summary.num_documents:
        warn(
            f"{summary.folder}: documents have {summary.num_tokens / summary.num_documents:.0f} tokens on average, so "
            "many examples will hold padding; if a file is one document, say --document_end file"
        )


def _print_bad_records(folder: Path) -> None:
    bad = read_bad_records(folder)
    if bad:
        print(f"{len(bad):,} bad records were passed over; {folder / BAD_RECORDS} lists them:")
        print("\n".join(f"  {record.file}: line {record.line}: {record.reason}" for record in bad[:_MOST_SHOWN]))
        if len(bad) > _MOST_SHOWN:
            print(f"  … and {len(bad) - _MOST_SHOWN:,} more")


def _number(text: str) -> int:
    """Read "16M", "500k" or a plain number."""
    factors = {"k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
    factor = factors.get(text[-1:].lower(), 1)
    digits = text[:-1] if factor > 1 else text
    if not digits.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 16M, 500k or 1000000")
    return int(digits) * factor
