from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.errors import UserError
from ds_bert.files import read_json, write_json
from ds_bert.meta.tasks.task_set import TaskExamples, TaskSet, write_task_manifest, write_task_shard


def example(number: int) -> TaskExamples:
    """A task of ``number + 2`` support examples and two queries, each of other tokens."""
    count = number + 4
    sequences = [np.arange(number, number + 3 + place) for place in range(count)]
    return TaskExamples(sequences, [2] * count, np.arange(count) % 2, count - 2, 2, f"wörd{number}, {number}")


@pytest.fixture
def folder(tmp_path: Path, vocabulary_file: Path) -> Path:
    return write(tmp_path / "made", vocabulary_file, is_ordered=False)


def write(folder: Path, vocabulary_file: Path, is_ordered: bool) -> Path:
    tokenizer = load_tokenizer(vocabulary_file)
    spans = (range(0, 3), range(3, 5))
    shards = [
        write_task_shard(folder / f"shard-{number:05d}", [example(task) for task in span], tokenizer.size)
        for number, span in enumerate(spans)
    ]
    write_task_manifest(folder, tokenizer, shards, is_ordered, {"kind": "test"})
    return folder


def test_tasks_read_back_memory_mapped(folder: Path) -> None:
    tasks = TaskSet.open(folder)
    assert (len(tasks), tasks.num_examples, tasks.about) == (5, 30, {"kind": "test"})
    for number in range(5):
        made, episode = example(number), tasks.task(number)
        assert tasks.name(number) == made.name and episode.num_classes == 2
        for part, rows in ((episode.support, slice(0, number + 2)), (episode.query, slice(number + 2, None))):
            found = [part.tokens[a:b].tolist() for a, b in zip(part.starts, part.starts[1:], strict=False)]
            assert found == [ids.tolist() for ids in made.sequences[rows]]
            assert part.columns["labels"].tolist() == made.labels[rows].tolist()
            assert part.first_segments.tolist() == made.first_segments[rows]
            assert not part.tokens.flags.owndata and part.tokens.dtype == np.uint16
            batch = part.batch(0, np.arange(len(part)))
            assert batch["labels"].dtype == np.int64 and batch["input_ids"][0, :3].tolist() == found[0][:3]
    tasks.verify()


def test_every_pass_takes_every_task_in_an_order_of_its_own(folder: Path, vocabulary_file: Path) -> None:
    tasks = TaskSet.open(folder)
    passes = [[tasks.episode(number, seed=3).name for number in range(5 * turn, 5 * turn + 5)] for turn in range(4)]
    assert all(sorted(names) == sorted(passes[0]) for names in passes)
    assert len({tuple(names) for names in passes}) > 1
    assert passes[1] == [tasks.episode(number, seed=3).name for number in range(5, 10)]
    ordered = TaskSet.open(write(folder.parent / "ordered", vocabulary_file, is_ordered=True))
    names = [ordered.episode(number, seed=3).name for number in range(10)]
    assert names == [ordered.task(number % 5).name for number in range(10)]


ARRAYS = ("tokens", "sequences", "first_segments", "labels", "tasks", "queries", "classes", "names")


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]), Path.unlink])
def test_damage_is_found_on_opening(folder: Path, damage: Callable, name: str) -> None:
    damage(folder / "shard-00001" / f"{name}.npy")
    with pytest.raises(UserError, match=rf"shard-00001/{name}\.npy"):
        TaskSet.open(folder)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_flipped_bit_is_found_by_verify(folder: Path, name: str) -> None:
    path = folder / "shard-00000" / f"{name}.npy"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))
    try:
        tasks = TaskSet.open(folder)
    except UserError:
        return
    with pytest.raises(UserError, match=rf"{name}\.npy: its checksum"):
        tasks.verify()


@pytest.mark.parametrize("key", ["format_version", "vocab_size", "shards", "about", "pad_id", "is_ordered"])
def test_a_damaged_manifest_is_refused(folder: Path, key: str) -> None:
    path = folder / "tasks.json"
    manifest = read_json(path)
    write_json(path, {name: value for name, value in manifest.items() if name != key})
    with pytest.raises(UserError, match=r"tasks\.json: "):
        TaskSet.open(folder)
    del manifest["shards"][0]["files"]["names.npy"]
    write_json(path, manifest)
    with pytest.raises(UserError, match=r"tasks\.json: damaged"):
        TaskSet.open(folder)


def test_no_folder_of_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it has no tasks\.json"):
        TaskSet.open(tmp_path)
