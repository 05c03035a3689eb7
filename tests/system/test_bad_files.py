"""Data, tokenizers, checkpoints and folders that are wrong: one sentence, exit status 2, nothing touched."""

import json
import shutil
from pathlib import Path

import pytest

from ds_bert import cli
from ds_bert.checkpoint import folders
from ds_bert.checkpoint.manifest import faults, hash_file, read_manifest, write_manifest
from ds_bert.checkpoint.pretrained import local_folder
from ds_bert.errors import UserError
from tests.support.jobs import pretrain
from tests.support.refusal import Job, the_sentence
from tests.support.text import prepare_data, write_model

TINY = ["--num_workers", "1"]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, prepared: Path, model: Path) -> Path:
    """The output folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("run")
    flags = ["--config_name", model, "--train_path", prepared, "--output_dir", folder / "out", "--max_steps", 2]
    flags += ["--max_seq_length", 32, "--max_predictions_per_seq", 5, "--save_steps", 1, "--disable_tqdm"]
    assert [rank.status for rank in pretrain(folder, flags)] == [0]
    return folder / "out"


@pytest.fixture
def trained(job: Job, run: Path) -> Job:
    """A job whose output folder holds the checkpoints of steps 1 and 2, and that would go on to step 4."""
    shutil.copytree(run, job.folder / "out")
    job.arguments |= {"max_steps": 4, "resume": True}
    return job


@pytest.mark.parametrize("content", ["text.txt", ".hidden", "checkpoint-1/manifest.json"])
def test_an_output_folder_that_holds_something(job: Job, content: str) -> None:
    job.write(f"out/{content}", "what I want to keep")
    sentence = job.refuse()
    assert "out: --output_dir is not empty" in sentence
    assert "--resume" in sentence and "--overwrite_output_dir" in sentence


def test_an_output_folder_that_is_a_file_or_below_one(job: Job) -> None:
    job.write("out", "text")
    assert "out: is a file" in job.refuse()
    assert "cannot be made" in job.refuse("--output_dir", job.folder / "out" / "below")


def test_the_current_folder_is_not_moved_aside(job: Job) -> None:
    sentence = job.refuse("--output_dir", ".", "--overwrite_output_dir")
    assert str(job.folder) in sentence and "cannot be moved aside" in sentence


def test_an_output_folder_that_cannot_be_written(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (job.folder / "out").mkdir()
    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    assert "out: --output_dir cannot be written: Permission denied" in job.refuse()


@pytest.mark.parametrize("name", ["tokens.npy", "sentences.npy", "documents.npy"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "overwritten"])
def test_damaged_shards(job: Job, name: str, damage: str) -> None:
    path = job.folder / "data" / "shard-00000" / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[:-7] if damage == "truncated" else b"\0" * len(whole))
    assert f"{path}: " in job.refuse()


def test_a_pickle_in_place_of_a_shard_is_not_loaded(job: Job) -> None:
    path = job.folder / "data" / "shard-00000" / "tokens.npy"
    path.write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.".ljust(path.stat().st_size, b" "))
    assert f"{path}: " in job.refuse()
    assert not (job.folder / "owned").exists()


@pytest.mark.parametrize("text", ["{}", "[]", "{'a': 1}", '{"format_version": 1}', '{"format_version": 99}', ""])
def test_damaged_manifests_of_data(job: Job, text: str) -> None:
    path = job.write("data/dataset.json", text)
    assert path in job.refuse()


def test_a_data_folder_without_its_tokenizer(job: Job) -> None:
    shutil.rmtree(job.folder / "data" / "tokenizer")
    assert str(job.folder / "data" / "tokenizer") in job.refuse()


def test_vocabularies_that_do_not_fit_the_model(job: Job) -> None:
    write_model(job.folder / "bert.json", vocab_size=120)
    sentence = job.refuse()
    assert "vocab_size is 120" in sentence and "fewer than the tokenizer's" in sentence
    write_model(job.folder / "bert.json", vocab_size=30522)
    assert "vocab_size is 30522" in job.refuse()


def test_another_tokenizer_than_the_data_has(job: Job) -> None:
    shutil.copytree(job.folder / "data" / "tokenizer", job.folder / "other")
    vocabulary = job.folder / "other" / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text().replace("##a\n", "##aaa\n"))
    sentence = job.refuse("--tokenizer_name", vocabulary)
    assert f"--tokenizer_name {vocabulary}" in sentence and "another tokenizer" in sentence
    assert "nowhere" in job.refuse("--tokenizer_name", "nowhere")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", ("5 tokens", "at least 100")),
        ("\n".join(f"word{number}" for number in range(200)), ("lacks", "[MASK]")),
        (b"\xff\xfe\x00\x01", ("UTF-8",)),
    ],
)
def test_tokenizers(job: Job, text: str | bytes, words: tuple[str, ...]) -> None:
    path = job.write("vocab.txt", text)
    input_path = job.write("text.txt", "A sentence .\n\nAnother one .\n")
    flags = ["--input", input_path, "--tokenizer_name", path, "--output_dir", job.folder / "new"]
    for sentence in (job.refuse_ds_bert("prepare", *flags, *TINY), job.refuse("--tokenizer_name", path)):
        assert path in sentence and all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("empty",)),
        ("\n \n\t\n", ("text",)),
        (b"\x7fELF\x00\x01\x02", ("binary",)),
        (b"caf\xe9\n", ("UTF-8", "line 1")),
    ],
)
def test_text(job: Job, text: str | bytes, words: tuple[str, ...]) -> None:
    path = job.write("text.txt", text)
    flags = ["--input", path, "--tokenizer_name", job.folder / "data" / "tokenizer"]
    sentence = job.refuse_ds_bert("prepare", *flags, "--output_dir", job.folder / "new", *TINY)
    assert path in sentence and all(word in sentence for word in words), sentence
    job.write("text.txt", "A sentence .\n\nAnother one .\n")
    assert cli.main(["prepare", *map(str, flags), "--output_dir", str(job.folder / "new"), *TINY]) == 0


def test_commands_of_ds_bert(job: Job) -> None:
    assert "trian" in job.refuse_ds_bert("trian")
    assert "--output_dir" in job.refuse_ds_bert("prepare", "--input", "nowhere")
    assert "nowhere" in job.refuse_ds_bert(
        "prepare", "--input", "nowhere", "--train_vocab", 200, "--output_dir", job.folder / "new", *TINY
    )
    assert "nowhere" in job.refuse_ds_bert("export", "nowhere", "--output_dir", job.folder / "new")
    assert "data" in job.refuse_ds_bert("export", job.folder / "data", "--output_dir", job.folder / "new")


def test_exports_of_a_damaged_checkpoint_or_into_a_folder_with_files(trained: Job) -> None:
    checkpoint = trained.folder / "out" / "checkpoint-2"
    trained.write("new/file", "what I want to keep")
    assert "new: " in trained.refuse_ds_bert("export", checkpoint, "--output_dir", trained.folder / "new")
    (checkpoint / "config.json").unlink()
    assert "config.json" in trained.refuse_ds_bert("export", checkpoint, "--output_dir", trained.folder / "other")


SHARD = "00003-of-00006.safetensors"


@pytest.mark.parametrize("name", [f"model-{SHARD}", f"optimizer-{SHARD}", "trainer_state.json", "config.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_checkpoints(trained: Job, name: str, damage: str) -> None:
    """None is whole: the job is refused, and says what is wrong with the newest."""
    paths = [trained.folder / "out" / f"checkpoint-{step}" / name for step in (1, 2)]
    for path in paths:
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1])
    sentence = trained.refuse()
    assert "no whole checkpoint" in sentence and f"{paths[1]}: " in sentence


@pytest.mark.parametrize("name", [f"model-{SHARD}", "tokenizer.json"])
def test_a_flipped_bit_in_a_model_to_start_from(trained: Job, name: str) -> None:
    checkpoint = trained.folder / "out" / "checkpoint-2"
    content = bytearray((checkpoint / name).read_bytes())
    content[-4] ^= 1
    trained.write(f"out/checkpoint-2/{name}", bytes(content))
    trained.arguments |= {"output_dir": str(trained.folder / "new"), "resume": False, "config_name": None}
    assert f"{name}: does not have the checksum" in trained.refuse("--model_name_or_path", checkpoint)
    words = ["import", "--from", "huggingface", checkpoint, "--output_dir", trained.folder / "imported"]
    assert f"{name}: does not have the checksum" in trained.refuse_ds_bert(*words)


@pytest.mark.parametrize("name", ["README.md", "eval_results.txt", "config.json~", "pytorch_model.bin"])
def test_a_run_goes_on_from_a_checkpoint_with_a_foreign_file(trained: Job, name: str) -> None:
    out = trained.folder / "out"
    trained.write(f"out/checkpoint-2/{name}", "accuracy 0.8")
    (ended,) = pretrain(trained.folder / "resumed", [trained.write("run.json", trained.arguments | {"save_steps": 2})])
    assert ended.status == 0 and "is skipped" not in (trained.folder / "resumed" / "0.err.txt").read_text()
    assert [path.name for path in folders.checkpoints(out)] == [f"checkpoint-{step}" for step in (1, 2, 4)]
    assert not list(out.glob("*.old-*"))


def test_a_damaged_checkpoint_is_skipped_for_an_earlier_one(trained: Job, prepared: Path) -> None:
    out = trained.folder / "out"
    path = out / "checkpoint-2" / f"optimizer-{SHARD}"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    run_json = trained.write("run.json", trained.arguments | {"save_steps": 2})
    (ended,) = pretrain(trained.folder / "resumed", [run_json])
    printed = (trained.folder / "resumed" / "0.err.txt").read_text()
    assert ended.status == 0 and f"checkpoint-2 is skipped: {path}: " in printed
    assert [path.name for path in folders.checkpoints(out)] == [f"checkpoint-{step}" for step in (1, 2, 4)]
    assert not [fault for checkpoint in folders.checkpoints(out) for fault in faults(checkpoint)]
    assert (out / "checkpoint-2.old-1" / path.name).is_file()  # nothing is deleted


@pytest.mark.parametrize("bit", [0, 4])
def test_bit_flips_in_all_checkpoints(trained: Job, bit: int) -> None:
    for step in (1, 2):
        path = trained.folder / "out" / f"checkpoint-{step}" / f"model-{SHARD}"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1 << bit]))
    (ended,) = pretrain(trained.folder / "resumed", [trained.write("run.json", trained.arguments)])
    sentence = the_sentence(
        ended.status, (trained.folder / "resumed" / "0.err.txt").read_text().splitlines()[-1] + "\n"
    )
    assert "no whole checkpoint" in sentence and f"{path}: does not have the checksum" in sentence


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 3}'])
def test_damaged_manifests_of_checkpoints(trained: Job, text: str) -> None:
    shutil.rmtree(trained.folder / "out" / "checkpoint-1")
    path = trained.write("out/checkpoint-2/manifest.json", text)
    assert path in trained.refuse()


def test_checkpoints_without_a_manifest(trained: Job) -> None:
    for step in (1, 2):
        (trained.folder / "out" / f"checkpoint-{step}" / "manifest.json").unlink()
    sentence = trained.refuse()
    assert "checkpoint-2" in sentence and "manifest.json" in sentence


def test_a_checkpoint_whose_state_lost_a_key(trained: Job) -> None:
    checkpoint = trained.folder / "out" / "checkpoint-2"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    del state["global_batch"]
    path = Path(trained.write("out/checkpoint-2/trainer_state.json", state))
    write_manifest(checkpoint, 2, read_manifest(checkpoint) | {path.name: hash_file(path)})
    sentence = trained.refuse()
    assert str(path) in sentence and "global_batch" in sentence


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--seed 43", ("--seed 42", "now 43")),
        ("--per_device_train_batch_size 4", ("global batches of 8", "= 4")),
        (
            "--gradient_accumulation_steps 2",
            ("global batches of 8", "= 16", "_accumulation_steps 1 it is"),
        ),
        ("--max_seq_length 64", ("--max_seq_length 32", "now 64")),
        ("--mlm_probability 0.2", ("--mlm_probability 0.15", "now 0.2")),
        ("--max_predictions_per_seq 4", ("--max_predictions_per_seq 5", "now 4")),
        ("--whole_word_mask", ("--whole_word_mask False", "now True")),
        ("--optim sgd", ("--optim adamw", "now sgd")),
    ],
)
def test_another_run_than_the_checkpoint_was_written_by(trained: Job, flags: str, words: tuple[str, ...]) -> None:
    sentence = trained.refuse(*flags.split())
    assert "checkpoint-2" in sentence and all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("world", "flags", "said"),
    [
        (2, "--per_device_train_batch_size 2", "with --gradient_accumulation_steps 2 it is"),
        (4, "", "with --per_device_train_batch_size 2 --gradient_accumulation_steps 1 it is"),
        (3, "", "nothing makes it so on 3 replicas; use a map of 2 or 4"),
    ],
)
def test_other_replicas_are_told_what_keeps_the_global_batch(trained: Job, world: int, flags: str, said: str) -> None:
    sentence = trained.refuse(*flags.split(), world=world)
    assert "global batches of 8" in sentence and f"{world} replicas" in sentence and sentence.endswith(said), sentence


def test_another_model_than_the_checkpoint_was_written_by(trained: Job) -> None:
    write_model(trained.folder / "bert.json", hidden_size=48)
    sentence = trained.refuse()
    assert "checkpoint-2" in sentence and "hidden_size 32, now it is 48" in sentence


def test_other_data_than_the_checkpoint_was_written_on(trained: Job) -> None:
    (trained.folder / "other").mkdir()
    other = prepare_data(trained.folder / "other", "--shard_tokens", "2000")
    sentence = trained.refuse("--train_path", str(other))
    assert "checkpoint-2" in sentence and "other training data" in sentence and "--model_name_or_path" in sentence


def test_model_folders(job: Job) -> None:
    del job.arguments["config_name"]
    assert "nowhere" in job.refuse("--model_name_or_path", "nowhere")
    folder = job.folder / "weights"
    folder.mkdir()
    assert "config.json" in job.refuse("--model_name_or_path", folder)
    write_model(folder / "config.json")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    sentence = job.refuse("--model_name_or_path", folder)
    assert f"{folder}: has no model.safetensors" in sentence
    assert f"`ds-bert import --from huggingface {folder} --output_dir …`" in sentence
    with pytest.raises(UserError, match="is a file; needed is its folder"):
        local_folder(str(folder / "pytorch_model.bin"))
    (folder / "model.safetensors").write_bytes(b"nonsense" * 10)
    assert "model.safetensors: not a readable safetensors file" in job.refuse("--model_name_or_path", folder)


def test_weights_that_are_not_this_model_s(trained: Job) -> None:
    trained.arguments |= {"config_name": None, "resume": False, "output_dir": str(trained.folder / "new")}
    folder = trained.folder / "out" / "checkpoint-2"
    (folder / "manifest.json").unlink()
    write_model(folder / "config.json", intermediate_size=48)
    sentence = trained.refuse("--model_name_or_path", folder)
    assert "layer.0.intermediate.dense.weight has shape (64, 32)" in sentence and "(48, 32)" in sentence
    for path in folder.glob("model*"):
        path.unlink()
    shutil.copy(folder / f"optimizer-{SHARD}", folder / "model.safetensors")
    assert "none of this model's names" in trained.refuse("--model_name_or_path", folder)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_size": 33}, ("hidden_size", "num_attention_heads")),
        ({"num_hidden_layers": "4"}, ("num_hidden_layers", '"4"')),
        ({"model_type": "gpt2"}, ("model_type", "gpt2", "bert")),
        ({"hidden_act": "sine"}, ("hidden_act", "sine")),
    ],
)
def test_model_configurations(job: Job, fields: dict[str, object], words: tuple[str, ...]) -> None:
    path = write_model(job.folder / "bert.json", **fields)
    sentence = job.refuse()
    assert str(path) in sentence and all(word in sentence for word in words), sentence
