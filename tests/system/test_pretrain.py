"""The pre-training job on real ranks: what resumes, stops, evaluates and saves, and what of it changes the numbers."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from ds_bert.checkpoint.folders import checkpoints
from ds_bert.checkpoint.tensors import TensorFolder, write_tensors
from ds_bert.training.log import read_log
from tests.support import jobs
from tests.support.jobs import Ended, Pretraining, assert_stays_as_it_is, pretrain, printed_after_a_death, wait_for
from tests.support.processes import Failed, Returned, run_on_ranks

STEPS = 24
PERMUTED = {"module_to_stage_map": [0, 0, 0, 1, 1, 1], "stage_to_rank_map": {"0": [3, 1], "1": [0, 2]}}
THREE = {"module_to_stage_map": [0, 0, 1, 1, 1, 2], "stage_to_rank_map": {"0": [0], "1": [2], "2": [1]}}
# A global batch of 16 for every number of replicas: 2 x 4 x 2, and 2 x 8 x 1.
TWO_REPLICAS = ["--gradient_accumulation_steps", 4]
ONE_REPLICA = ["--gradient_accumulation_steps", 8]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, prepared: Path, model: Path) -> list[Any]:
    """What all runs are told, dropout included: a JSON file."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "permuted.json").write_text(json.dumps(PERMUTED))
    (folder / "three.json").write_text(json.dumps(THREE))
    arguments = {
        "config_name": str(model),
        "train_path": str(prepared),
        "max_steps": STEPS,
        "max_seq_length": 32,
        "max_predictions_per_seq": 5,
        "per_device_train_batch_size": 2,
        "learning_rate": 3e-3,
        "adam_epsilon": 1e-6,
        "warmup_ratio": 0.2,
        "logging_steps": 1,
        "save_steps": 6,
    }
    (folder / "run.json").write_text(json.dumps(arguments))
    return [folder / "run.json", "--disable_tqdm"]


@pytest.fixture(scope="module")
def two_by_two(base: list[Any]) -> list[Any]:
    """Two stages of two replicas on permuted ranks."""
    return [*base, *TWO_REPLICAS, "--stage_map", base[0].parent / "permuted.json"]


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory, two_by_two: list[Any]) -> Path:
    """The output folder of the run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("left_alone")
    ended = pretrain(folder, [*two_by_two, "--output_dir", folder / "out"], 4)
    assert [rank.status for rank in ended] == [0, 0, 0, 0]
    return folder / "out"


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights and moments of a checkpoint."""
    folders = TensorFolder(checkpoint), TensorFolder(checkpoint, "optimizer")
    return {name: folder.read(name) for folder in folders for name in folder.names()}


def assert_same_bits(output_dir: Path, expected: Path) -> None:
    ours, theirs = (tensors(folder / f"checkpoint-{STEPS}") for folder in (output_dir, expected))
    assert ours.keys() == theirs.keys() and any(name.startswith("exp_avg_sq/") for name in ours)
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def assert_close(output_dir: Path, expected: Path, tolerance: float = 1e-6) -> None:
    ours, theirs = (tensors(folder / f"checkpoint-{STEPS}") for folder in (output_dir, expected))
    assert ours.keys() == theirs.keys()
    for name in ours:
        # the true gradient of the keys' bias is zero: what there is of it is rounding
        scale = 1.0 if name.endswith("key.bias") else theirs[name].abs().max().item()
        allowed = (10 * tolerance if "/" in name else tolerance) * scale  # moments have kind/name
        assert (ours[name] - theirs[name]).abs().max().item() <= allowed, name


def losses(output_dir: Path) -> dict[int, float]:
    return {entry["step"]: entry["train/loss"] for entry in read_log(output_dir) if "train/loss" in entry}


def statuses(outcomes: dict[int, Any]) -> list[int]:
    assert all(isinstance(outcome, Returned) for outcome in outcomes.values()), outcomes
    return [outcomes[rank].value.status for rank in sorted(outcomes)]


def test_a_run_learns_and_leaves_what_it_should(left_alone: Path, prepared: Path) -> None:
    kept = {path.name for path in left_alone.iterdir()}
    assert kept >= {"arguments.json", "stage_map.json", "log.jsonl", "tensorboard", "summary.json", "loss.png"}
    assert [path.name for path in checkpoints(left_alone)] == [f"checkpoint-{step}" for step in (6, 12, 18, 24)]
    found = losses(left_alone)
    assert list(found) == list(range(1, STEPS + 1)) and found[STEPS] < found[1] - 0.1
    assert json.loads((left_alone / "stage_map.json").read_text()) == PERMUTED
    evaluation = json.loads((left_alone / "summary.json").read_text())["evaluation"]
    assert evaluation.keys() == {"loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"}
    assert (prepared / "validation").is_dir() and 0 < evaluation["mlm_loss"] < 6


def test_tensorboard_holds_the_losses(left_alone: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(left_alone / "tensorboard"))
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("train/loss")}
    assert shown == pytest.approx(losses(left_alone), rel=1e-6)
    assert len(events.Scalars("eval/mlm_loss")) == 1


def test_the_figures_are_printed_once(left_alone: Path) -> None:
    printed = "".join(path.read_text() for path in left_alone.parent.glob("*.txt"))
    printed = " ".join(printed.split())
    figures = ("speed:", "tokens/s", "busy: stage 0", "held-out")
    for words in (f"step {STEPS}/{STEPS}: loss", *figures, f"saved: {left_alone}/checkpoint-{STEPS}"):
        assert printed.count(words) == 1, (words, printed)
    assert "embeddings, encoder layers 0–1 on ranks 3, 1 | encoder layers 2–3, head on ranks 0, 2" in printed


def test_killed_halfway_and_resumed(tmp_path: Path, two_by_two: list[Any], left_alone: Path) -> None:
    words = [*two_by_two, "--output_dir", tmp_path / "out"]
    killed = Pretraining(tmp_path / "killed", words, 4)
    wait_for(lambda: len(losses(tmp_path / "out")) >= 14)
    for rank in range(4):
        killed.signal(rank, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "out" / f"checkpoint-{STEPS}").exists()
    pretrain(tmp_path / "resumed", [*words, "--resume"], 4)
    assert_same_bits(tmp_path / "out", left_alone)
    assert losses(tmp_path / "out") == losses(left_alone)


@pytest.mark.parametrize(
    ("world", "flags"),
    [
        (1, [*ONE_REPLICA]),
        pytest.param(2, [*TWO_REPLICAS], marks=pytest.mark.slow),
        pytest.param(3, [*ONE_REPLICA, "--stage_map", "three.json"], marks=pytest.mark.slow),
        pytest.param(2, [*ONE_REPLICA, "--num_stages", 2, "--gradient_checkpointing"], marks=pytest.mark.slow),
        (4, [*TWO_REPLICAS, "--num_stages", 2, "--deepspeed_config", "fp32_zero1"]),
    ],
)
def test_resumed_on_another_cut(
    tmp_path: Path, base: list[Any], left_alone: Path, world: int, flags: list[Any]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "checkpoint-12").symlink_to(left_alone / "checkpoint-12")
    flags = [base[0].parent / flag if flag == "three.json" else flag for flag in flags]
    pretrain(tmp_path / "resumed", [*base, *flags, "--output_dir", out, "--resume"], world)
    assert_close(out, left_alone)


@pytest.mark.parametrize(
    ("number", "rank"), [(signal.SIGTERM, 2), pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow)]
)
def test_a_signal_to_one_rank_ends_all_with_a_checkpoint(
    tmp_path: Path, two_by_two: list[Any], left_alone: Path, number: int, rank: int
) -> None:
    words = [*two_by_two, "--output_dir", tmp_path / "out", "--save_steps", 0]
    run = Pretraining(tmp_path / "stopped", words, 4)
    wait_for(lambda: len(losses(tmp_path / "out")) >= 5)
    run.signal(rank, number)
    assert statuses(run.wait()) == [128 + number] * 4
    (checkpoint,) = checkpoints(tmp_path / "out")
    step = int(checkpoint.name.partition("-")[2])
    assert 5 <= step < STEPS
    assert f"ended by signal {number} after step {step}; go on with --resume" in run.printed()
    pretrain(tmp_path / "resumed", [*words, "--resume"], 4)
    assert_same_bits(tmp_path / "out", left_alone)


def test_a_killed_rank_ends_all_and_they_say_where_they_were(tmp_path: Path, two_by_two: list[Any]) -> None:
    run = Pretraining(tmp_path / "run", [*two_by_two, "--output_dir", tmp_path / "out", "--save_steps", 0], 4)
    wait_for(lambda: len(losses(tmp_path / "out")) >= 3)
    run.signal(2, signal.SIGKILL)
    outcomes = run.wait()
    assert all(isinstance(outcome, Failed) for outcome in outcomes.values()), outcomes
    places = {3: "stage 0, replica 0", 1: "stage 0, replica 1", 0: "stage 1, replica 0"}
    for rank, place in places.items():  # by the launcher's ranks, as in the map
        assert f"error: rank {rank} ({place}): " in (tmp_path / "run" / f"{rank}.err.txt").read_text()
    assert not checkpoints(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("later", [[], ["--save_async"]], ids=["at once", "later"])
def test_evaluating_and_saving_changes_nothing(
    tmp_path: Path, two_by_two: list[Any], left_alone: Path, later: list[str]
) -> None:
    flags = ["--save_steps", 5, "--eval_steps", 7, "--per_device_eval_batch_size", 3, "--save_total_limit", 2, *later]
    pretrain(tmp_path / "run", [*two_by_two, *flags, "--output_dir", tmp_path / "out"], 4)
    assert_same_bits(tmp_path / "out", left_alone)
    assert losses(tmp_path / "out") == losses(left_alone)
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["checkpoint-20", "checkpoint-24"]
    assert [entry["step"] for entry in read_log(tmp_path / "out") if "eval/loss" in entry] == [7, 14, 21, 24]


def test_a_finished_run_resumed_does_nothing(tmp_path: Path, two_by_two: list[Any], left_alone: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in left_alone.glob("checkpoint-*/*")}
    summary = (left_alone / "summary.json").read_text()
    ended = pretrain(tmp_path, [*two_by_two, "--output_dir", left_alone, "--resume"], 4)
    assert [rank.status for rank in ended] == [0, 0, 0, 0]
    assert (
        f"nothing to do: step {STEPS} is reached"
        in (tmp_path / "2.out.txt").read_text() + (tmp_path / "3.out.txt").read_text()
    )
    assert before == {path: path.stat().st_mtime_ns for path in left_alone.glob("checkpoint-*/*")}
    assert summary == (left_alone / "summary.json").read_text()


def test_only_first_and_last_stages_open_data(tmp_path: Path, base: list[Any], prepared: Path) -> None:
    flags = [*ONE_REPLICA, "--stage_map", base[0].parent / "three.json", "--max_steps", 2]
    ended = pretrain(tmp_path, [*base, *flags, "--output_dir", tmp_path / "out"], 3)
    opened = [{path for path in rank.opened if path.startswith(str(prepared))} for rank in ended]
    tokens = str(prepared / "shard-00000" / "tokens.npy")
    assert tokens in opened[0] and tokens in opened[1]  # rank 1 has the last stage
    assert not opened[2]


def test_flags_override_the_file_and_what_was_there_is_moved_aside(tmp_path: Path, base: list[Any]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("what I want to keep")
    flags = [*ONE_REPLICA, "--max_steps", 1, "--output_dir", tmp_path / "out", "--overwrite_output_dir"]
    for _ in range(2):
        pretrain(tmp_path / "run", [*base, *flags])
    assert (tmp_path / "out.old-1" / "notes.txt").read_text() == "what I want to keep"
    assert (tmp_path / "out.old-2" / "checkpoint-1" / "manifest.json").is_file()
    arguments = json.loads((tmp_path / "out" / "arguments.json").read_text())
    assert (arguments["max_steps"], arguments["save_steps"]) == (1, 6)
    assert not (tmp_path / "out" / "notes.txt").exists()


@pytest.mark.parametrize("micro_batches", [4, 32])
def test_a_throughput_run_prints_its_figures(tmp_path: Path, base: list[Any], micro_batches: int) -> None:
    flags = ["--num_minibatches", micro_batches, "--gradient_accumulation_steps", 4, "--num_stages", 2]
    pretrain(tmp_path, [*base, *flags], 2)
    printed = (tmp_path / "0.out.txt").read_text()
    figures = dict(line.split(":", 1) for line in printed.splitlines() if ": " in line)
    samples, tokens = (float(part.split()[0].replace(",", "")) for part in figures["speed"].split(", "))
    assert samples > 0 and tokens == pytest.approx(32 * samples, rel=0.01)
    assert "stage 0" in figures["busy"] and "stage 1" in figures["busy"] and "idle" in figures["busy"]
    assert "(an even cut in theory: 20%)" in figures["busy"]  # (p - 1)/(m + p - 1) = 1/5
    assert "held-out" not in printed
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".txt"] * 4


@pytest.mark.slow
def test_a_throughput_run_leaves_a_real_run_as_it_is(tmp_path: Path, two_by_two: list[Any], left_alone: Path) -> None:
    out = tmp_path / "out"
    flags = [*two_by_two, "--output_dir", out]
    shutil.copytree(left_alone, out, ignore=shutil.ignore_patterns("checkpoint-18", "checkpoint-24", "latest"))

    def throughput_run(more: list[str]) -> str:
        pretrain(tmp_path / "printed", [*flags, *more], 4)
        return "".join(path.read_text() for path in (tmp_path / "printed").glob("*.out.txt"))

    assert_stays_as_it_is(out, throughput_run)
    pretrain(tmp_path / "printed", [*flags, "--resume"], 4)
    assert_same_bits(out, left_alone)


def test_a_throughput_run_keeps_its_trace_and_profile_beside(tmp_path: Path, base: list[Any]) -> None:
    flags = ["--num_minibatches", 12, "--gradient_accumulation_steps", 4, "--num_stages", 2, "--output_dir"]
    pretrain(tmp_path / "printed", [*base, *flags, tmp_path / "out", "--trace", "--profile_steps", "2"], 2)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if "printed" not in path.parts}
    names = ["", "/summary.json", "/trace.json", "/schedule.png", "/profile"]
    profiles = [f"/profile/rank-{rank}.json.gz" for rank in range(2)]
    assert found == {f"out.throughput{name}" for name in (*names, *profiles)}


@pytest.mark.slow
def test_bf16_and_shared_optimizer(tmp_path: Path, two_by_two: list[Any], left_alone: Path) -> None:
    words = [*two_by_two, "--deepspeed_config", "bf16_zero1", "--output_dir"]
    pretrain(tmp_path, [*words, tmp_path / "out"], 4)
    assert json.loads((tmp_path / "out" / "arguments.json").read_text())["bf16"] is True
    found, expected = losses(tmp_path / "out"), losses(left_alone)
    assert found == pytest.approx(expected, rel=0.02) and found != expected
    half = tmp_path / "half"
    half.mkdir()
    (half / "checkpoint-12").symlink_to(tmp_path / "out" / "checkpoint-12")
    pretrain(tmp_path / "resumed", [*words, half, "--resume"], 4)
    assert_same_bits(half, tmp_path / "out")


def test_started_from_exported_weights(tmp_path: Path, base: list[Any], left_alone: Path) -> None:
    from ds_bert.cli import main

    exported = tmp_path / "exported"
    assert main(["export", str(left_alone), "--output_dir", str(exported)]) == 0
    run = json.loads(base[0].read_text()) | {"config_name": None, "model_name_or_path": str(exported), "max_steps": 1}
    (tmp_path / "run.json").write_text(json.dumps(run))
    for world, flags in ((1, ONE_REPLICA), (2, [*ONE_REPLICA, "--num_stages", 2])):
        out = tmp_path / f"out{world}"
        flags = [*flags, "--learning_rate", 0, "--output_dir", out]
        pretrain(tmp_path / f"run{world}", [tmp_path / "run.json", "--disable_tqdm", *flags], world)
        started, weights = TensorFolder(out / "checkpoint-1"), TensorFolder(exported)
        assert all(torch.equal(started.read(name), weights.read(name)) for name in weights.names())


def test_started_from_weights_without_a_head(tmp_path: Path, base: list[Any], left_alone: Path) -> None:
    trained, folder = TensorFolder(left_alone / f"checkpoint-{STEPS}"), tmp_path / "encoder"
    folder.mkdir()
    shutil.copy(left_alone / f"checkpoint-{STEPS}" / "config.json", folder)
    encoder = trained.read_all(name for name in trained.names() if name.startswith("bert."))
    write_tensors(folder / "model.safetensors", encoder)
    run = json.loads(base[0].read_text()) | {"config_name": None, "model_name_or_path": str(folder), "max_steps": 1}
    (tmp_path / "run.json").write_text(json.dumps(run))
    flags = ["--num_stages", 2, "--learning_rate", 0, "--output_dir", tmp_path / "out"]
    pretrain(tmp_path / "run", [tmp_path / "run.json", *flags], 2)
    said = [path.read_text() for path in (tmp_path / "run").glob("*.txt")]
    assert sum("cls.predictions.bias" in text and "fresh weights" in text for text in said) == 1
    started = TensorFolder(tmp_path / "out" / "checkpoint-1")
    assert all(torch.equal(started.read(name), encoder[name]) for name in encoder)
    assert not started.read("cls.predictions.bias").any()


def _in_its_own_folder(folder: Path, words: list[str]) -> Ended:
    os.chdir(folder / os.environ["RANK"])
    return jobs._run("pipelines/pretrain.py", words, str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_output_folder_that_one_rank_does_not_see(tmp_path: Path, base: list[Any], rank: int) -> None:
    """As on a node that has not mounted it: refused at once, on all ranks, with the checkpoint as it was."""
    words = [*base, "--num_stages", 2, *ONE_REPLICA, "--max_steps", 2, "--ddp_timeout", 50]
    assert [end.status for end in pretrain(tmp_path, [*words, "--output_dir", tmp_path / "out"], 2)] == [0, 0]
    for other in (0, 1):
        (tmp_path / str(other)).mkdir()
    (tmp_path / "out").rename(tmp_path / str(1 - rank) / "out")
    words += ["--output_dir", "out", "--resume"]
    ends = run_on_ranks(_in_its_own_folder, 2, tmp_path, [str(word) for word in words], timeout=40)
    assert [end.status for end in ends] == [2, 2]
    ours, theirs = ("no checkpoint", "checkpoint-2") if rank else ("checkpoint-2", "none")
    for number in (0, 1):
        said = [line for line in (tmp_path / f"{number}.err.txt").read_text().splitlines() if "error: " in line]
        assert len(said) == 1 and said[0].startswith("error: out: rank 1 (stage 1, replica 0) on "), said
        assert f" finds {ours} to go on from, rank 0 (stage 0, replica 0) on " in said[0] and theirs in said[0]


def test_a_death_while_another_rank_still_builds_is_noticed(base: list[Any], tmp_path: Path) -> None:
    arguments = [*base, "--num_stages", 2, *ONE_REPLICA, "--output_dir", tmp_path / "out"]
    printed = printed_after_a_death(
        "pipelines/pretrain.py", tmp_path / "printed", arguments, "ds_bert.training.pretraining.build_engine"
    )
    said = "error: rank 1 (stage 1, replica 0): after step 0: rank 0 (stage 0, replica 0), after step 0, died\n"
    assert printed == said
