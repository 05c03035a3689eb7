"""`ds-bert prepare` on text that is made up: what goes in, and what a folder holds."""

import gzip
import json
import random
from pathlib import Path

import pytest

from ds_bert.cli import main

WORDS = ["bad", "cab", "dad", "fab", "gag", "hag", "jab", "lab", "mad", "nab", "zzz"]


def write_text(path: Path, documents: int, seed: int = 0) -> Path:
    rng = random.Random(seed)
    lines = []
    for _ in range(documents):
        for _ in range(rng.randint(1, 12)):
            lines.append(" ".join(rng.choices(WORDS, k=rng.randint(2, 20))) + " .")
        lines.append("")
    path.write_text("\n".join(lines))
    return path


def prepare(*flags: object) -> int:
    return main(["prepare", *map(str, flags)])


def refusal(capsys: pytest.CaptureFixture, *flags: object) -> str:
    capsys.readouterr()
    assert prepare(*flags) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message
    return message


def write_json_lines(path: Path, texts: list[str | None]) -> Path:
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def some_texts(count: int) -> list[str | None]:
    rng = random.Random(3)
    return [" ".join(rng.choices(WORDS[:-1], k=rng.randint(20, 60))) + " ." for _ in range(count)]
