from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ds_bert.data.features import Features, make_features
from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.errors import UserError
from ds_bert.meta.tasks.episode import Episode
from ds_bert.meta.tasks.episode_sources import Divided, Mixture, OpenedFile, RecordTasks, SupervisedTasks, mix, subset
from ds_bert.meta.tasks.published_files import ListedFile, encode_tasks, files_of
from ds_bert.meta.tasks.task_set import TaskExamples, TaskSet, write_task_manifest, write_task_shard
from ds_bert.meta.training_tasks import TaskReader
from ds_bert.tasks.task import DataOptions


def features(labels: list[int]) -> Features:
    """Example i consists of i + 1 tokens i."""
    sequences = [[number] * (number + 1) for number in range(len(labels))]
    return make_features(sequences, [1] * len(labels), 0, {"labels": np.array(labels)})


def numbers(part: Features) -> list[int]:
    return part.tokens[part.starts[:-1]].tolist()


def test_a_subset_holds_the_rows_asked_for() -> None:
    some = features([0, 1, 2, 3, 4])
    part = subset(some, np.array([3, 0, 3]))
    assert numbers(part) == [3, 0, 3] and np.diff(part.starts).tolist() == [4, 1, 4]
    for name, rows in part.batch(0, np.arange(3)).items():
        assert np.array_equal(rows[:, :4] if rows.ndim > 1 else rows, _rows(some, name))
    assert len(subset(some, np.zeros(0, dtype=np.int64))) == 0


def _rows(some: Features, name: str) -> np.ndarray:
    rows = some.batch(0, np.array([3, 0, 3]))[name]
    return rows[:, :4] if rows.ndim > 1 else rows


def test_self_supervised_tasks_lie_one_behind_the_other() -> None:
    tasks = RecordTasks(features([0, 1, 0, 1, 0, 0, 1, 0, 0, 1]), 2, 2, 1, "file")
    assert len(tasks) == 3
    found = [tasks.episode(number, seed=9) for number in range(4)]
    assert [numbers(one.support) + numbers(one.query) for one in found] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 1, 2]]
    assert found[3].name == found[0].name == "file: task 0"


def test_a_task_whose_support_lacks_a_class_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="file: task 1: none of its 2 support examples is of class 0"):
        RecordTasks(features([0, 1, 0, 1, 1, 0]), 2, 2, 1, "file")


def test_sources_know_the_shapes_of_all_their_tasks(tmp_path: Path, vocabulary_file: Path, task: TaskExamples) -> None:
    tokenizer, long = load_tokenizer(vocabulary_file), replace(task, sequences=[np.arange(5)] * 6, num_support=3)
    shards = [
        write_task_shard(tmp_path / f"shard-{number:05d}", tasks, tokenizer.size)
        for number, tasks in enumerate(([task, long], [replace(task, num_classes=3)]))
    ]
    write_task_manifest(tmp_path, tokenizer, shards, False, {})
    folder = TaskSet.open(tmp_path)
    assert [column.tolist() for column in folder.shapes()] == [
        *([3, 5, 3], [4, 3, 4], [2, 2, 3]),
        [False, True, False],
    ]
    some = features([0, 1, 0, 0, 1, 0, 1])  # the last is of no task
    records, drawn = RecordTasks(some, 2, 2, 1, "file"), SupervisedTasks(some, 2, 2, 1, "file")
    assert [column.tolist() for column in records.shapes()] == [[3, 6], [2, 2], [2, 2], [True, True]]
    assert [column.tolist() for column in drawn.shapes()] == [[7], [2], [2], [True]]
    for source in (folder, records):
        assert source.title(1) in {source.episode(number, 0).name for number in range(len(source))}


def test_supervised_episodes_go_through_all_examples_in_a_new_order_each_pass() -> None:
    tasks = SupervisedTasks(features([0, 1] * 12), 2, 6, 2, "file")
    assert len(tasks) == 3
    passes = []
    for turn in range(3):
        episodes = [tasks.episode(3 * turn + place, seed=1) for place in range(3)]
        passes.append([number for one in episodes for number in numbers(one.support) + numbers(one.query)])
        assert all(len(one.support) == 6 and len(one.query) == 2 for one in episodes)
    assert all(sorted(one) == list(range(24)) for one in passes) and passes[0] != passes[1]
    assert numbers(tasks.episode(4, seed=1).support) == passes[1][8:14]
    assert numbers(tasks.episode(4, seed=2).support) != passes[1][8:14]


def test_a_rare_class_gets_a_support_example_and_none_is_in_the_query_too() -> None:
    labels = [0] * 40 + [1] * 37 + [2]
    tasks = SupervisedTasks(features(labels), 3, 6, 2, "file")
    for number in range(30):
        episode = tasks.episode(number, seed=0)
        support, query = numbers(episode.support), numbers(episode.query)
        assert set(episode.support.columns["labels"].tolist()) == {0, 1, 2}
        assert (
            len(set(support + query)) == 8
            and [labels[one] for one in query] == episode.query.columns["labels"].tolist()
        )


@pytest.mark.parametrize(
    ("labels", "sizes", "message"),
    [
        ([0, 1], (2, 1), "2 examples, but a task of --train_batch_size needs 3"),
        ([0, 1, 0], (3, 0), "--meta_batchsz 3 of --train_batch_size 3"),
        ([0, 2, 0], (2, 1), "3 classes with 2, 0, 1 examples"),
        ([0, 1, 3], (2, 1), "4 classes with 1, 1, 0, 1 examples; needs examples of all 3"),
        ([0, 1, 2], (2, 1), "needs examples of all 3 classes, and 3 support"),
    ],
)
def test_data_sets_too_small_are_refused(labels: list[int], sizes: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SupervisedTasks(features(labels), 3, *sizes, "file")


class Named:
    """A source whose episodes tell who they are."""

    def __init__(self, name: str, length: int = 5) -> None:
        self.name, self.length = name, length

    def __len__(self) -> int:
        return self.length

    def episode(self, number: int, seed: int) -> Episode:
        return Episode(features([0]), features([0]), 2, f"{self.name}{number}")


def names(source: Mixture | Divided, count: int, seed: int = 0) -> list[str]:
    return [source.episode(number, seed).name for number in range(count)]


def test_a_mixture_draws_in_proportion_and_goes_through_each_source_in_order() -> None:
    mixture = Mixture([Named("a"), Named("b")], [1, 3])
    found = names(mixture, 3000)
    assert abs(Counter(name[0] for name in found)["a"] / 3000 - 0.25) < 0.03
    for source in "ab":
        mine = [int(name[1:]) for name in found if name[0] == source]
        assert mine == list(range(len(mine)))
    fresh = Mixture([Named("a"), Named("b")], [1, 3])
    assert fresh.episode(2999, 0).name == found[2999] and names(fresh, 50, seed=1) != found[:50]
    assert len(mixture) == 10


def test_a_steps_episodes_are_divided_between_the_kinds() -> None:
    source = Divided(Named("sup"), Named("self"), num_first=2, per_step=4)
    assert names(source, 8) == ["sup0", "sup1", "self0", "self1", "sup2", "sup3", "self2", "self3"]
    for num_first in (0, 4):
        with pytest.raises(UserError, match=f"--num_supervised_shards: {num_first} of a step's 4 tasks"):
            Divided(Named("sup"), Named("self"), num_first, per_step=4)


@pytest.mark.parametrize(
    ("examples", "of_a_task", "processes", "supervised", "steps"),
    [(862560, 90, 2, 1, 9584), (862560, 90, 8, 3, 1916), (900, 90, 4, 1, 3), (90, 90, 4, 1, 1)],
)
def test_an_epoch_is_a_pass_over_the_self_supervised_tasks(
    examples: int, of_a_task: int, processes: int, supervised: int, steps: int
) -> None:
    """By the published count of steps, where each process adapts to one task a step."""
    published = int(examples / (of_a_task * (processes - supervised)))
    source = Divided(Named("sup", 68), Named("self", examples // of_a_task), supervised, processes)
    assert len(source) / processes == steps == max(1, published)


def test_self_made_files_weigh_their_examples_and_labelled_ones_the_root() -> None:
    own = [OpenedFile(Named("a"), 900), OpenedFile(Named("b"), 100)]
    supervised = [OpenedFile(Named("c"), 1600), OpenedFile(Named("d"), 400)]
    expected = [
        (mix(own, []), {"a": 900, "b": 100}),
        (mix(own, [], square_root=True), {"a": 30, "b": 10}),
        (mix([], supervised), {"c": 40, "d": 20}),
        (mix(own, supervised), {"a": 900, "b": 100, "c": 2000 * 2 / 3, "d": 2000 / 3}),
        (mix(own, supervised, square_root=True), {"a": 750, "b": 250, "c": 2000 * 2 / 3, "d": 2000 / 3}),
        (mix(own, supervised, pretrain_task_weight=0.8), {"a": 72, "b": 8, "c": 40 / 3, "d": 20 / 3}),
        (mix(own, supervised, 0.8, square_root=True), {"a": 60, "b": 20, "c": 40 / 3, "d": 20 / 3}),
    ]
    for source, weights in expected:
        found = Counter(name[0] for name in names(source, 3000))  # type: ignore[arg-type]
        total = sum(weights.values())
        assert all(abs(found[name] / 3000 - weight / total) < 0.035 for name, weight in weights.items())
    assert mix(own[:1], []) is own[0].tasks
    for wrong in (([], [], None), (own, [], 0.5), (own, supervised, 1.0)):
        with pytest.raises(UserError):
            mix(*wrong)  # type: ignore[arg-type]


@pytest.fixture
def task() -> TaskExamples:
    sequences = [np.array([2, 10 + number, 3]) for number in range(6)]
    return TaskExamples(sequences, [3] * 6, np.array([0, 1, 1, 0, 0, 1]), 4, 2, "words")


def test_files_and_folders_are_opened(tmp_path: Path, vocabulary_file: Path, task: TaskExamples) -> None:
    tokenizer = load_tokenizer(vocabulary_file)
    folder, file = tmp_path / "own", tmp_path / "meta_2.tf_record"
    write_task_manifest(
        folder, tokenizer, [write_task_shard(folder / "shard-00000", [task], tokenizer.size)], False, {}
    )
    file.write_bytes(encode_tasks([task] * 3, ".tf_record", 8, 0))
    listed = tmp_path / "data.json"
    listed.write_text('{"own": 6, "meta_2.tf_record": 18}')
    reader = TaskReader(tokenizer, 4, 2, DataOptions(128))
    opened = [reader.self_supervised(each) for each in files_of(listed)]
    assert [(one.num_examples, len(one.tasks)) for one in opened] == [(6, 1), (18, 3)]
    first, second = (one.tasks.episode(0, 0) for one in opened)
    assert numbers(first.support) == numbers(second.support) == [2] * 4
    for key, rows in first.support.batch(0, np.arange(4)).items():
        assert np.array_equal(rows, second.support.batch(0, np.arange(4))[key])
    assert files_of(folder) == [ListedFile(folder)] and files_of(file) == [ListedFile(file)]
    supervised = [reader.supervised(each) for each in files_of(listed)]
    assert [(one.num_examples, len(one.tasks)) for one in supervised] == [(6, 1), (18, 3)]


def test_tasks_of_another_tokenizer_are_refused(tmp_path: Path, vocabulary_file: Path, task: TaskExamples) -> None:
    tokenizer = load_tokenizer(vocabulary_file)
    folder = tmp_path / "own"
    write_task_manifest(
        folder, tokenizer, [write_task_shard(folder / "shard-00000", [task], tokenizer.size)], False, {}
    )
    other = tmp_path / "vocab.txt"
    other.write_text(vocabulary_file.read_text() + "extra\n")
    with pytest.raises(UserError, match=r"tasks\.json: made with another tokenizer"):
        TaskReader(load_tokenizer(other), 4, 2, DataOptions(128)).self_supervised(ListedFile(folder))
