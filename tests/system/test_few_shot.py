"""Few-shot fine-tuning as users start it: after meta-training, all splits, beside plain methods, with mistakes."""

import json
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from ds_bert.training.trace import read_trace
from tests.support.jobs import Job, printed_after_a_death, run_job, wait_for
from tests.support.model_folder import write_bert_folder
from tests.support.processes import Failed
from tests.support.refusal import the_sentence
from tests.support.task_folder import write_tasks

GOOD, BAD = ["good", "great", "fine", "nice"], ["bad", "awful", "poor", "sad"]
FILLER = ["film", "the", "was", "a", "story", "it"]


def review(chance: random.Random, label: int) -> dict[str, str]:
    words = [chance.choice(FILLER) for _ in range(chance.randint(1, 5))] + [chance.choice([BAD, GOOD][label])]
    return {"sentence1": " ".join(words), "label": ["bad", "good"][label]}


def write_leopard(folder: Path, splits: int = 3, k: int = 4) -> Path:
    folder.mkdir(parents=True)
    chance = random.Random(0)
    for split in range(splits):
        rows = [review(chance, number % 2) for number in range(2 * k)]
        (folder / f"films_train_{split}_{k}.json").write_text(json.dumps(rows))
    (folder / f"films_train_{splits}_{k}.json").write_text("[]")
    (folder / "films_eval.json").write_text(json.dumps([review(chance, number % 2) for number in range(40)]))
    return folder


def write_broken(folder: Path) -> None:
    """Files as they are found: three test examples, a class without examples, another N than the name says."""
    write_leopard(folder / "few")
    (folder / "few" / "films_eval.json").write_text(json.dumps([review(random.Random(0), 1)] * 3))
    for name, labels in {"one_class_2": [0] * 8, "two_classes_3": [0, 1] * 4, "three_classes_2": [0, 1, 2] * 4}.items():
        records = [{"input_ids": [2, 7, 3], "input_mask": [1] * 3, "segment_ids": [0] * 3, "label_ids": [label]}
                   for label in labels]  # fmt: skip
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few-shot")
    model = write_bert_folder(folder / "model", [*GOOD, *BAD, *FILLER])
    write_tasks(folder / "tasks", model, count=6)
    write_leopard(folder / "films")
    write_broken(folder)
    words = {
        "model_name_or_path": model, "task_train_files": folder / "tasks", "output_dir": folder / "meta",
        "max_steps": 2, "num_batches": 3, "max_seq_length": 16, "head_hidden_size": 8, "encoding_size": 6,
        "train_lr": 0.05, "adapter_hidden_size": 4,
    }  # fmt: skip
    flags = [part for name, value in words.items() for part in (f"--{name}", value)]
    more = ["--parameter_efficient", "--global_adapters", "--disable_tqdm"]
    (ended,) = run_job("pipelines/meta_train.py", folder / "printed", [*flags, *more])
    assert ended.status == 0
    return folder


def few_shot(folder: Path, tmp_path: Path, *more: object, ranks: int = 1, status: int = 0, **flags: Any) -> str:
    """Run the job; return what all ranks printed."""
    words = {
        "checkpoint": folder / "meta" / "checkpoint-2", "task_dir": folder / "films", "max_seq_length": 16,
        "epochs": 4, "train_batch_size": 4, "output_dir": tmp_path / "out", "loss_threshold": 0.0,
    } | flags  # fmt: skip
    given = [part for name, value in words.items() if value is not None for part in (f"--{name}", value)]
    ended = run_job("pipelines/few_shot.py", tmp_path / "printed", [*given, *more], ranks, timeout=120)
    printed = "".join(path.read_text() for path in sorted((tmp_path / "printed").glob("*.txt")))
    assert [end.status for end in ended] == [status] * ranks, printed
    return printed


def results(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "out" / "results.json").read_text())


ALL = ("--methods", "meta", "fine-tuning", "head-only", "prototypes")


@pytest.mark.slow
def test_all_methods_on_all_splits_alike_on_one_stage_and_two(folder: Path, tmp_path: Path) -> None:
    printed = few_shot(folder, tmp_path / "1", *ALL, learning_rate=1e-3)
    flags = {"learning_rate": 1e-3, "ranks": 2, "num_stages": 2, "tasks_in_flight": 3, "trace_steps": "21-40"}
    said = few_shot(folder, tmp_path / "2", *ALL, **flags)
    one, two = results(tmp_path / "1")["results"], results(tmp_path / "2")["results"]
    assert one.keys() == two.keys() and len(one) == 4 * 3
    for key in one:
        assert one[key]["steps"] == two[key]["steps"] == (0 if key.startswith("prototypes") else 8)
        assert one[key]["loss"] == pytest.approx(two[key]["loss"], rel=1e-4), key
        assert one[key]["accuracy"] == pytest.approx(two[key]["accuracy"], abs=0.026), key  # one close call of 40
    assert len({one[key]["accuracy"] for key in one}) > 2
    assert "films_train_3_4.json" in printed and "prototypes" in printed
    assert (tmp_path / "1" / "out" / "accuracy.png").is_file()
    assert "trace.json (steps 21 to 40, for Perfetto" in said and (tmp_path / "2" / "out" / "schedule.png").is_file()
    for spans in read_trace(tmp_path / "2" / "out")[0]:  # three splits in turn take 24 steps by a method
        steps = [span.step for span in spans if span.kind == "backward"]
        assert sorted(steps) == list(range(21, 41)) and {span.step for span in spans} == set(steps)
        assert sum(span.kind == "forward" for span in spans) == 20 + 3  # and the next method's first weights
        assert sum(span.kind == "evaluate" for span in spans) == 3


def test_it_learns_stops_at_the_threshold_and_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    flags = {"epochs": 60, "loss_threshold": 0.2, "learning_rate": 3e-3}
    few_shot(folder, tmp_path, "--methods", "fine-tuning", splits=1, **flags)
    first = results(tmp_path)["results"]["fine-tuning/4/0"]
    assert first["loss"] < 0.2 and first["steps"] < 120 and first["accuracy"] > 0.6
    few_shot(folder, tmp_path, "--methods", "fine-tuning", "--resume", splits=2, **flags)
    assert results(tmp_path)["results"]["fine-tuning/4/0"] == first
    assert len(results(tmp_path)["results"]) == 2
    said = few_shot(folder, tmp_path, "--methods", "fine-tuning", "--resume", status=2, **flags | {"epochs": 61})
    assert "results.json: was written with --epochs 60, now 61; go on with --epochs 60" in said


def test_sizes_are_taken_times_the_classes(folder: Path, tmp_path: Path) -> None:
    """Two classes: 2 x 3 epochs of the 8 examples in batches of 2 x 2."""
    flags = {"epochs": 3, "train_batch_size": 2, "splits": 1, "lr_scheduler_type": "linear_from_start"}
    printed = few_shot(folder, tmp_path, "--scale_by_classes", **flags)
    assert results(tmp_path)["results"]["meta/4/0"]["steps"] == 12
    assert "6 epochs of batches of 4, at most" in printed


def test_a_rank_that_is_killed_ends_the_other_which_names_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--checkpoint", folder / "meta" / "checkpoint-2", "--task_dir", folder / "films", "--output_dir", out]
    words += ["--max_seq_length", 16, "--epochs", 100, "--train_batch_size", 4, "--loss_threshold", 0]
    job = Job("pipelines/few_shot.py", tmp_path / "printed", [*words, "--num_stages", 2, "--methods", *ALL[1:]], 2)
    wait_for((out / "results.json").exists)
    job.signal(1, signal.SIGKILL)
    outcomes = job.wait()
    assert all(isinstance(outcome, Failed) and "still running" not in outcome for outcome in outcomes.values())
    said = re.findall(r"^error: (.*)", job.printed(), re.MULTILINE)
    assert len(said) == 1, job.printed()
    place = r"rank {0} \(stage {0}, replica 0\)"
    assert re.match(rf"{place.format(0)}: after step \d\d+: {place.format(1)}, after step \d+, died$", said[0])


FILES = {"task_dir": None, "test_file": "x.jsonl"}
MISTAKES: dict[str, dict[str, Any]] = {
    "k = 16": {"k": 16},
    "--methods": {"methods": "knn"},
    "was not meta-trained": {"checkpoint": "model"},
    "--num_labels": {"num_labels": 3},
    "--trace_steps": {"trace_steps": "4-3"},
    "--support_file": {"task_dir": None},
    "films_train_3_4.json": FILES | {"support_file": "films/films_train_3_4.json"},
    "few/films_eval.json: 3 examples": {"task_dir": "few"},
    "one_class_2.jsonl: all its examples are of class 0": FILES | {"support_file": "one_class_2.jsonl"},
    "two_classes_3.jsonl: no example of class 2": FILES | {"support_file": "two_classes_3.jsonl", "num_labels": 3},
    "three_classes_2.jsonl: record 3: label 2": FILES | {"support_file": "three_classes_2.jsonl", "num_labels": 2},
}


@pytest.mark.parametrize("named", list(MISTAKES))
def test_a_mistake_is_one_sentence(named: str, folder: Path, tmp_path: Path) -> None:
    flags = dict(MISTAKES[named])
    for name in ("checkpoint", "support_file", "task_dir"):
        if flags.get(name):
            flags[name] = folder / flags[name]
    printed = few_shot(folder, tmp_path, status=2, **flags)
    assert named in the_sentence(2, printed[printed.index("error: ") :])


@pytest.mark.slow
def test_a_death_while_another_rank_still_builds_is_noticed(folder: Path, tmp_path: Path) -> None:
    arguments = ["--checkpoint", folder / "meta" / "checkpoint-2", "--task_dir", folder / "films", "--num_stages", 2]
    arguments += ["--max_seq_length", 16, "--output_dir", tmp_path / "out"]
    printed = printed_after_a_death(
        "pipelines/few_shot.py", tmp_path / "printed", arguments, "ds_bert.meta.few_shot_job.FewShot"
    )
    said = "error: rank 1 (stage 1, replica 0): after step 0: rank 0 (stage 0, replica 0), after step 0, died\n"
    assert printed == said
