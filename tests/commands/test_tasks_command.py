import json
import random
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from ds_bert.cli import main
from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.meta.arguments import MetaTrainArguments
from ds_bert.meta.tasks import text_to_tasks
from ds_bert.meta.tasks.published_files import files_of
from ds_bert.meta.tasks.task_set import TaskSet
from ds_bert.meta.training_tasks import TaskReader
from ds_bert.tasks.task import DataOptions

WORDS = [first + second for first in "bcdfgh" for second in ("ad", "eb", "id", "og")]
SIZES = ("--min_frequency", 20, "--support", 12, "--query", 5, "--num_tasks", 9, "--tasks_per_shard", 2)


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters, *("##" + letter for letter in letters)]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*tokens, *(f"[unused{number}]" for number in range(60))]))
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    rng = random.Random(0)
    path = tmp_path / "corpus.jsonl"
    documents = [". ".join(" ".join(rng.choices(WORDS, k=6)).capitalize() for _ in range(8)) for _ in range(60)]
    path.write_text("".join(json.dumps({"text": document + "."}) + "\n" for document in documents))
    return path


def tasks(*flags: object) -> int:
    return main(["tasks", *map(str, flags)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_the_result_depends_on_the_seed_and_not_on_the_workers(
    tmp_path: Path, text: Path, vocabulary: Path, capsys: pytest.CaptureFixture
) -> None:
    common = ("--input", text, "--tokenizer_name", vocabulary, *SIZES, "--sampling", "cluster", "--num_clusters", 2)
    made = {}
    for name, flags in {"one": (1, 0), "two": (2, 0), "other": (1, 5)}.items():
        workers, seed = flags
        assert tasks(*common, "--output_dir", tmp_path / name, "--workers", workers, "--seed", seed) == 0
        made[name] = contents(tmp_path / name)
    assert made["one"] == made["two"] and made["one"].keys() == made["other"].keys() != set()
    assert made["one"]["shard-00000/tokens.npy"] != made["other"]["shard-00000/tokens.npy"]
    assert not any(name.startswith(".") for name in made["one"])
    printed = capsys.readouterr().out
    assert "9 tasks of 153 examples, of 24 words" in printed and "next: deepspeed pipelines/meta_train.py" in printed
    found = TaskSet.open(tmp_path / "one")
    assert main(["verify", str(tmp_path / "one")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'one'}: 9 tasks are whole, 153 examples\n"
    assert len(found) == 9 and [found.task(number).num_classes for number in range(4)] == [2, 3, 4, 2]


@pytest.mark.parametrize("layout", ["tfrecord", "json"])
def test_the_published_layout_holds_the_same_tasks(tmp_path: Path, text: Path, vocabulary: Path, layout: str) -> None:
    common = ("--input", text, "--tokenizer_name", vocabulary, *SIZES, "--workers", 1, "--max_seq_length", 32)
    own, theirs = tmp_path / "own", tmp_path / "theirs"
    assert tasks(*common, "--output_dir", own) == tasks(*common, "--output_dir", theirs, "--layout", layout) == 0
    suffix = {"tfrecord": "tf_record", "json": "jsonl"}[layout]
    listed = json.loads((theirs / "data.json").read_text())
    assert listed == {str(theirs / f"meta_smlmt_{ways}.{suffix}"): 51 for ways in (2, 3, 4)}
    reader = TaskReader(load_tokenizer(vocabulary), 12, 5, DataOptions(128))
    expected, opened = TaskSet.open(own), map(reader.self_supervised, files_of(theirs / "data.json"))
    for place, file in enumerate(opened):
        assert len(file.tasks) == 3
        for number in range(3):
            one, other = expected.task(3 * number + place), file.tasks.episode(number, 0)
            assert one.num_classes == other.num_classes == place + 2
            for part, again in ((one.support, other.support), (one.query, other.query)):
                rows = part.batch(0, np.arange(len(part)))
                for name, values in again.batch(0, np.arange(len(again))).items():
                    assert np.array_equal(rows[name], values)


def test_shots_and_queries_are_counts_of_each_class(tmp_path: Path, text: Path, vocabulary: Path) -> None:
    common = ("--input", text, "--tokenizer_name", vocabulary, *SIZES, "--workers", 1)
    assert tasks(*common, "--ways", 3, "--shots", 4, "--queries", 2, "--output_dir", tmp_path / "out") == 0
    for number in range(9):
        episode = TaskSet.open(tmp_path / "out").task(number)
        assert np.bincount(episode.support.columns["labels"]).tolist() == [4] * 3
        assert np.bincount(episode.query.columns["labels"]).tolist() == [2] * 3


@pytest.mark.parametrize(
    "flags", [("--kind", "sentence-clusters", "--num_clusters", 4, "--ways", 2), ("--curriculum",)]
)
def test_other_kinds_are_made_of_a_prepared_folder(
    tmp_path: Path, text: Path, vocabulary: Path, flags: tuple[object, ...]
) -> None:
    prepared, out = tmp_path / "prepared", tmp_path / "out"
    arguments = ["--input", text, "--tokenizer_name", vocabulary, "--num_workers", 1, "--output_dir", prepared]
    assert main(["prepare", *map(str, arguments)]) == 0
    assert tasks("--input", prepared, *SIZES, "--workers", 1, *flags, "--output_dir", out) == 0
    assert TaskSet.open(out).is_ordered == ("--curriculum" in flags) and len(TaskSet.open(out)) == 9


def test_an_interrupted_run_goes_on_to_the_same_result(
    tmp_path: Path, text: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    common = ("--input", text, "--tokenizer_name", vocabulary, *SIZES, "--workers", 1, "--validation_share", 0.4)
    common += ("--ways", 2)
    assert tasks(*common, "--output_dir", tmp_path / "whole") == 0

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(text_to_tasks, "write_task_manifest", stop)
        assert tasks(*common, "--output_dir", tmp_path / "out") == 130
    assert not (tmp_path / "out" / "tasks.json").exists()
    assert tasks(*common, "--seed", 1, "--output_dir", tmp_path / "out") == 2
    assert "begun with other arguments" in capsys.readouterr().err
    assert tasks(*common, "--output_dir", tmp_path / "out") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert tasks(*common, "--output_dir", tmp_path / "out") == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--ways", 1), "--ways 1: needs different numbers of classes"),
        (("--ways", 2, 2), "--ways 2 2: needs different"),
        (("--ways", 30), "--ways 30: 12 support and 5 query"),
        (("--ways", 12, "--validation_share", 0.9), "--ways 12: only "),
        (("--min_frequency", 10000), "--min_frequency 10000: no word stands in so many"),
        (("--num_tasks", 0), "--num_tasks"),
        (("--validation_share", 1), "--validation_share 1.0"),
        (("--max_seq_length", 4), "--max_seq_length 4: needs at least 16"),
        (("--shots", 300), "--ways 2: only 0 words"),
        (("--query", 0), "a query at least"),
        (("--kind", "pairs", "--curriculum"), "--kind pairs: its classes are always the same"),
        (("--kind", "pairs"), "--ways 4: --kind pairs has 2 or 3"),
        (("--kind", "pairs", "--ways", 2, "--support", 1000), "--kind pairs: the text has too few sentences"),
        (("--num_clusters", 0), "--num_clusters 0"),
        (("--embeddings", "gone", "--curriculum"), "gone: no safetensors file"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path,
    text: Path,
    vocabulary: Path,
    capsys: pytest.CaptureFixture,
    flags: tuple[object, ...],
    message: str,
) -> None:
    common = ("--input", text, "--tokenizer_name", vocabulary, *SIZES, "--workers", 1)
    assert tasks(*common, *flags, "--output_dir", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_is_needed(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture) -> None:
    assert tasks("--input", text, "--output_dir", tmp_path / "out") == 2
    assert "--tokenizer_name: needs the tokenizer of the model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_guide_names_only_flags_that_there_are(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["tasks", "--help"])
    known = set(re.findall(r"--\w+", capsys.readouterr().out))
    elsewhere = {f"--{field.name}" for field in fields(MetaTrainArguments)}
    guide = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--\w+", guide))
    assert named - elsewhere <= known and len(named & known) > 15
