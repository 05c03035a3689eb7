"""Meta-training as users start it: on a pipeline, killed and resumed, with mistakes."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from ds_bert.checkpoint.tensors import TensorFolder
from ds_bert.checkpoint.training_state import read_state
from ds_bert.errors import UserError
from ds_bert.meta.job import refuse_adapted_head
from ds_bert.training.trace import read_trace
from tests.support.jobs import assert_stays_as_it_is, printed_after_a_death, run_job, without_folder
from tests.support.model_folder import write_bert_folder
from tests.support.refusal import contents, the_sentence
from tests.support.task_folder import write_tasks

JOB = "pipelines/meta_train.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meta")
    model = write_bert_folder(folder / "model", ["film", "story"])
    write_tasks(folder / "tasks", model)
    write_tasks(folder / "labelled", model, seed=1)
    return folder


def words(folder: Path, out: Path, *more: object, **flags: Any) -> list[object]:
    defaults = {
        "model_name_or_path": folder / "model",
        "task_train_files": folder / "tasks",
        "output_dir": out,
        "max_steps": 4,
        "save_steps": 2,
        "num_batches": 3,
        "average_query_every": 1,
        "gradient_accumulation_steps": 2,
        "tasks_in_flight": 2,
        "max_seq_length": 16,
        "train_lr": 0.05,
        "learning_rate": 1e-3,
        "head_hidden_size": 8,
        "encoding_size": 6,
        "adapter_hidden_size": 4,
    }
    given = [part for name, value in (defaults | flags).items() for part in (f"--{name}", value)]
    return [*given, "--disable_tqdm", *more]


ADAPTERS = ("--parameter_efficient", "--global_adapters")


def run(tmp_path: Path, arguments: list[object], ranks: int = 1, status: int = 0) -> str:
    """Run the job; return what all ranks printed."""
    ended = run_job(JOB, tmp_path / "printed", arguments, ranks, timeout=120)
    printed = "".join(path.read_text() for path in sorted((tmp_path / "printed").glob("*.txt")))
    assert [end.status for end in ended] == [status] * ranks, printed
    return printed


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    folder = TensorFolder(checkpoint)
    return folder.read_all(folder.names())


def on_both_kinds(folder: Path) -> dict[str, Any]:
    """Flags of a run on two stages, whose processes share out supervised tasks and self-made ones."""
    labelled = {"supervised_train_files": folder / "labelled", "num_supervised_shards": 1}
    return {"num_stages": 2, "hidden_dropout_prob": 0.1, **labelled}


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    flags = [*ADAPTERS, "--trace_steps", "2-3"]
    run(folder / "whole", words(folder, folder / "whole" / "out", *flags, **on_both_kinds(folder)), ranks=2)
    return folder / "whole" / "out"


def halfway(whole: Path, out: Path) -> Path:
    """What the whole run had left had it ended after two of its steps."""
    shutil.copytree(whole, out)
    shutil.rmtree(out / "checkpoint-4")
    (out / "latest").write_text("checkpoint-2\n")
    return out


def test_a_resumed_run_on_two_stages_ends_with_the_same_bits(folder: Path, whole: Path, tmp_path: Path) -> None:
    again = halfway(whole, tmp_path / "again")
    run(tmp_path, words(folder, again, *ADAPTERS, "--resume", **on_both_kinds(folder)), ranks=2)
    for file in (whole / "checkpoint-4").glob("*.safetensors"):
        assert file.read_bytes() == (again / "checkpoint-4" / file.name).read_bytes(), file.name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_lr": 0.1}, "was written with --train_lr 0.05, now 0.1; go on with --train_lr 0.05"),
        ({"average_query_every": 0}, "was written with --average_query_every 1, now 0"),
        ({"encoding_size": 7}, "was written by a model with meta_learning"),
    ],
)
def test_what_the_learner_follows_from_stays(
    folder: Path, whole: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    flags = on_both_kinds(folder) | {"num_supervised_shards": 1} | changes
    printed = run(tmp_path, words(folder, whole, *ADAPTERS, "--resume", **flags), ranks=2, status=2)
    assert said in printed


def test_a_run_that_adapted_a_head_which_is_to_be_held_is_not_gone_on_with(whole: Path) -> None:
    """The head's step sizes are what tells: they are 0 in all runs that hold it."""
    with pytest.raises(
        UserError, match=r"checkpoint-4: was written by an earlier version, whose --warp_layers adapted"
    ):
        refuse_adapted_head(whole / "checkpoint-4", "bert")


def test_a_held_head_stays_held_when_a_run_is_gone_on_with(folder: Path, tmp_path: Path) -> None:
    """And whatever it started from: here a model that was meta-trained with its head adapted."""
    free, held = tmp_path / "free", tmp_path / "held"
    run(tmp_path, words(folder, free, max_steps=2))
    flags = {"model_name_or_path": free / "checkpoint-2", "output_dir": held}
    run(tmp_path, words(folder, held, "--warp_layers", **flags, max_steps=2))
    run(tmp_path, words(folder, held, "--warp_layers", "--resume", **flags))
    for layer in (0, 2):
        name = f"meta.step_size.head.{layer}"
        assert weights(free / "checkpoint-2")[name].item() > 0 == weights(held / "checkpoint-4")[name].item()


def test_the_steps_that_were_traced(whole: Path) -> None:
    """Two tasks a step: a generator's batch, two of support, three queries, and the gradient of the generator's."""
    ranks, stages = read_trace(whole)
    assert stages == [0, 1] and (whole / "schedule.png").is_file()
    for spans in ranks:
        assert {span.step for span in spans} == {2, 3}
        for step in (2, 3):
            kinds = Counter(span.kind for span in spans if span.step == step)
            assert kinds["forward"] == 14 and kinds["backward"] == 12 and kinds["step"] == 1
            assert kinds["wait"] + kinds["send"] == 26


def test_second_order_is_traced_and_keeps_its_stage_busy(folder: Path, tmp_path: Path) -> None:
    flags = {"stop_grad": "false", "tasks_in_flight": 1, "trace": "true"}
    printed = run(tmp_path, words(folder, tmp_path / "out", **flags))
    (spans,), _ = read_trace(tmp_path / "out")
    assert Counter((span.kind, span.step) for span in spans) == {
        (kind, step): count for kind, count in (("forward", 2), ("backward", 2), ("step", 1)) for step in range(1, 5)
    }
    assert "(steps 1 to 4, for Perfetto" in printed and "busy:   stage 0 0%" not in printed


def test_on_another_number_of_processes_it_goes_on_with_the_same_tasks(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    again = halfway(whole, tmp_path / "again")
    run(tmp_path, words(folder, again, *ADAPTERS, "--resume", **(on_both_kinds(folder) | {"num_stages": 1})))
    wanted, found = weights(whole / "checkpoint-4"), weights(again / "checkpoint-4")
    for name, tensor in wanted.items():
        assert (found[name] - tensor).abs().max() <= 1e-5 * tensor.abs().max() + 1e-9, name
    assert read_state(again / "checkpoint-4")["processes"] == 2  # from here on, too


def test_a_throughput_run_without_a_folder_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    arguments = without_folder(words(folder, here, *ADAPTERS, num_minibatches=4), here, monkeypatch)
    before = contents(here)
    assert "samples/s" in run(tmp_path, arguments)
    assert contents(here) == before


@pytest.mark.slow
def test_a_throughput_run_leaves_a_real_run_as_it_is(folder: Path, whole: Path, tmp_path: Path) -> None:
    out = halfway(whole, tmp_path / "out")
    flags = words(folder, out, *ADAPTERS, **on_both_kinds(folder))
    assert_stays_as_it_is(out, lambda more: run(tmp_path, [*flags, *more], 2))
    run(tmp_path, [*flags, "--resume"], 2)
    for file in (whole / "checkpoint-4").glob("*.safetensors"):
        assert file.read_bytes() == (out / "checkpoint-4" / file.name).read_bytes(), file.name


def test_adapters_leave_the_encoder_as_it_was(folder: Path, tmp_path: Path) -> None:
    run(tmp_path, words(folder, tmp_path / "out", *ADAPTERS, num_supervised_shards=0))
    before, after = weights(tmp_path / "out" / "checkpoint-2"), weights(tmp_path / "out" / "checkpoint-4")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("meta.") or ".adapter.global." in name for name in moved)
    model = weights(folder / "model")
    assert all(torch.equal(model[name], after[f"bert.{name}"]) for name in model if not name.startswith("cls"))
    names = TensorFolder(tmp_path / "out" / "checkpoint-4", "optimizer").names()
    assert not [name for name in names if name.endswith("query.weight")]  # what is not trained has no moments


MISTAKES = {
    "--task_train_files": {"task_train_files": "missing.json"},
    "--meta_batchsz": {"meta_batchsz": 90},
    "--tasks_in_flight": {"tasks_in_flight": 3},
    "--stop_grad": {"stop_grad": "false"},
    "--num_batches": {"num_batches": 13},
    "--min_layer_with_grad": {"min_layer_with_grad": 3},
    "--train_lr": {"train_lr": 0},
    "--bf16": {"bf16": "true"},
    "--num_supervised_shards": {"num_supervised_shards": 1},
    "--save_steps": {"save_steps": -1},
}


@pytest.mark.parametrize("flag", list(MISTAKES))
def test_a_mistake_is_one_sentence(flag: str, folder: Path, tmp_path: Path) -> None:
    printed = run(tmp_path, words(folder, tmp_path / "out", **MISTAKES[flag]), status=2)
    sentence = the_sentence(2, printed[printed.index("error: ") :])
    assert (flag if flag != "--task_train_files" else "missing.json") in sentence


@pytest.mark.slow
def test_a_death_while_another_rank_still_builds_is_noticed(folder: Path, tmp_path: Path) -> None:
    arguments = words(folder, tmp_path / "out", num_stages=2)
    printed = printed_after_a_death(
        "pipelines/meta_train.py", tmp_path / "printed", arguments, "ds_bert.meta.job.build_stage"
    )
    said = "error: rank 1 (stage 1, replica 0): after step 0: rank 0 (stage 0, replica 0), after step 0, died\n"
    assert printed == said
