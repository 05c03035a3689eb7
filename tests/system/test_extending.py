"""The examples of docs/extending.md, and a head's: real jobs as they stand there, with the losses of plain torch."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import BertModel, ElectraConfig, ElectraForTokenClassification, ElectraModel

from ds_bert.checkpoint.tensors import TensorFolder
from ds_bert.cli import main as ds_bert
from ds_bert.command_line import import_extensions
from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.modeling.model import initialize
from ds_bert.schedules.schedule import one_f_one_b
from ds_bert.schedules.simulator import bubble_share, simulate
from ds_bert.training.log import read_log
from tests.support.jobs import REPOSITORY, run_job
from tests.support.model_folder import write_bert_folder, write_vocabulary

WORDS = ["good", "great", "bad", "poor", "film", "the", "was", "a"]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
STEPS, RATE, SEED = 5, 1e-2, 42
TRAINING = ["--do_train", "--max_steps", STEPS, "--learning_rate", RATE, "--lr_scheduler_type", "constant"]
TRAINING += ["--logging_steps", 1, "--disable_tqdm", "--max_seq_length", 16]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the document's files."""
    folder = tmp_path_factory.mktemp("extending")
    text = (REPOSITORY / "docs" / "extending.md").read_text()
    found = re.findall(r"^`(\w+\.py)`[^\n]*:\n\n```python\n(.*?)^```", text, re.M | re.S)
    assert [name for name, _ in found] == ["eager.py", "electra.py"]
    assert text.count("```python") == len(found)
    for name, code in found:
        (folder / name).write_text(code)
    return folder


def run(folder: Path, job: Path | str, words: list[Any], ranks: int, status: int = 0) -> str:
    ended = run_job(str(job), folder / "printed", [*words, "--output_dir", folder / "out"], ranks)
    printed = "".join(path.read_text() for path in sorted((folder / "printed").glob("*.txt")))
    assert [end.status for end in ended] == [status] * ranks, printed
    return printed


def losses(folder: Path) -> list[float]:
    return [entry["train/loss"] for entry in read_log(folder / "out") if "train/loss" in entry]


def train(parameters: dict[str, torch.nn.Parameter], loss: Any) -> list[float]:
    """The losses of plain torch, batch after batch."""
    decays = [item for item in parameters.values() if item.ndim > 1]
    others = [item for item in parameters.values() if item.ndim < 2]
    groups = [{"params": decays, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    found = []
    for _ in range(STEPS):
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(value.item())
    return found


def reviews(path: Path) -> list[tuple[str, int]]:
    rows = [("the film was good", 1), ("poor film", 0), ("a great film", 1), ("the film was a bad film", 0)]
    rows += [("great", 1), ("was the film good", 1), ("a good film", 1), ("good was the bad film", 0)]
    path.write_text("sentence,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return rows


@pytest.mark.parametrize("stages", [1, 2])
def test_a_head_with_its_metric(tmp_path: Path, stages: int) -> None:
    """All eight examples make up a step, padded or not, in micro-batches of two."""
    rows = reviews(tmp_path / "train.csv")
    folder = write_bert_folder(tmp_path / "model", WORDS, **NO_DROPOUT)
    words = ["--model_name_or_path", folder, "--train_file", tmp_path / "train.csv", "--validation_file"]
    words += [tmp_path / "train.csv", "--cache_dir", tmp_path / "cache", "--do_eval", "--num_stages", stages]
    words += ["--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 4]
    printed = run(tmp_path, "docs/examples/own_head.py", [*TRAINING, *words], stages)

    model, classifier = BertModel.from_pretrained(folder).train(), torch.nn.Linear(32, 2)
    parameters = {**{f"bert.{name}": item for name, item in model.named_parameters() if "pooler" not in name}}
    parameters |= {f"classifier.{name}": item for name, item in classifier.named_parameters()}
    for name in ("classifier.weight", "classifier.bias"):
        initialize(name, parameters[name].data, model.config.initializer_range, SEED)
    tokenizer = load_tokenizer(folder)
    texts = [[tokenizer.cls_id, *tokenizer.backend.encode(text, add_special_tokens=False).ids, tokenizer.sep_id]
             for text, _ in rows]  # fmt: skip

    def logits() -> torch.Tensor:
        states = [model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in texts]
        return classifier(torch.stack(states))

    labels = torch.tensor([label for _, label in rows])
    expected = train(parameters, lambda: F.cross_entropy(logits(), labels))
    assert losses(tmp_path) == pytest.approx(expected, rel=1e-4)
    right = logits().argmax(1) == labels
    shares = [right[labels == label].float().mean().item() for label in (0, 1)]
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results == pytest.approx({"balanced_accuracy": sum(shares) / 2, "loss": results["loss"]})
    assert f"balanced_accuracy  {results['balanced_accuracy']:.4f}" in printed
    found = TensorFolder(tmp_path / "out" / f"checkpoint-{STEPS}")
    assert found.shape("classifier.weight") == (2, 32)
    for name, parameter in parameters.items():
        if not name.endswith("key.bias"):  # whose true gradient is zero
            assert (found.read(name) - parameter).abs().max() <= 1e-3 * parameter.abs().max(), name


def test_a_schedule(examples: Path, tmp_path: Path, prepared: Path, model: Path) -> None:
    """It is valid on every small pipeline, hides messages, and gives 1F1B's bits."""
    import_extensions([examples / "eager.py"])
    from ds_bert.schedules import SCHEDULES

    eager = SCHEDULES.pop("eager")
    for stages in range(1, 9):
        for m in range(1, 33):
            orders = ([order(stage, stages, m) for stage in range(stages)] for order in (eager.order, one_f_one_b))
            ours, theirs = (simulate(order, 1.0, 1.0, transfer=1.0) for order in orders)
            for stage in ours.stages:
                for is_forward in (True, False):
                    assert [step.micro_batch for step in stage if step.is_forward == is_forward] == list(range(m))
            assert ours.makespan <= theirs.makespan
            if stages > 1 and m > 2 * stages:
                assert ours.makespan < theirs.makespan
            assert bubble_share(eager, stages, m) == pytest.approx((stages - 1) / (m + stages - 1))

    words = ["--config_name", model, "--train_path", prepared, "--max_steps", 4, "--max_seq_length", 32]
    words += ["--num_stages", 2, "--gradient_accumulation_steps", 5, "--logging_steps", 1, "--disable_tqdm"]
    run(tmp_path / "1f1b", "pipelines/pretrain.py", words, 2)
    mine = {"extensions": [str(examples / "eager.py")], "schedule": "eager"}
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    (tmp_path / "part.json").write_text(json.dumps({"schedule": "eager"}))
    run(tmp_path / "eager", "pipelines/pretrain.py", [tmp_path / "mine.json", *words], 2)
    assert losses(tmp_path / "eager") == losses(tmp_path / "1f1b") and len(losses(tmp_path / "eager")) == 4
    refused = run(tmp_path / "no", "pipelines/pretrain.py", [tmp_path / "part.json", *words[:-3]], 1, status=2)
    assert "part.json: schedule is 'eager', needed is one of 1f1b, gpipe, 2bw" in refused
    refused = run(tmp_path / "not", "pipelines/pretrain.py", [*words, "--schedule", "eager"], 1, status=2)
    assert "invalid choice: 'eager', needed is one of 1f1b, gpipe, 2bw" in refused


SENTENCES = ["the film was good", "a film was bad", "the film was a", "was the film great"]
TAGS = {"the": "DET", "a": "DET", "film": "NOUN", "was": "VERB", "good": "ADJ", "bad": "ADJ", "great": "ADJ"}


def electra(folder: Path, embedding_size: int) -> Path:
    size = write_vocabulary(folder, WORDS)
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ElectraConfig(
        vocab_size=size, embedding_size=embedding_size, max_position_embeddings=32, **sizes, **NO_DROPOUT
    )
    ElectraModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("stages", "embedding_size"), [(1, 32), (2, 24)])
def test_a_family(examples: Path, tmp_path: Path, stages: int, embedding_size: int) -> None:
    folder, rows = electra(tmp_path / "model", embedding_size), [text.split() for text in SENTENCES]
    lines = [json.dumps({"words": words, "tags": [TAGS[word] for word in words]}) for words in rows]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    words = ["--extensions", examples / "electra.py", "--model_name_or_path", folder, "--data_dir", tmp_path]
    words += ["--num_stages", stages, "--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2]
    run(tmp_path, "docs/examples/token_classification.py", [*TRAINING, *words, "--do_eval"], stages)

    tags = sorted(set(TAGS.values()))
    model = ElectraForTokenClassification.from_pretrained(folder, num_labels=len(tags)).train()
    parameters = dict(model.named_parameters())
    for name in ("classifier.weight", "classifier.bias"):
        initialize(name, parameters[name].data, model.config.initializer_range, SEED)
    tokenizer = load_tokenizer(folder)
    texts = tokenizer.backend.encode_batch(SENTENCES, add_special_tokens=False)
    ids = torch.tensor([[tokenizer.cls_id, *text.ids, tokenizer.sep_id] for text in texts])
    labels = torch.tensor([[-100, *(tags.index(TAGS[word]) for word in row), -100] for row in rows])

    expected = train(parameters, lambda: model(input_ids=ids, labels=labels).loss)
    assert losses(tmp_path) == pytest.approx(expected, rel=1e-4)
    checkpoint = tmp_path / "out" / f"checkpoint-{STEPS}"
    loaded, report = ElectraForTokenClassification.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, parameter in loaded.named_parameters():
        if not name.endswith("key.bias"):
            assert (parameter - parameters[name]).abs().max() <= 1e-3 * parameters[name].abs().max(), name


def test_commands_take_a_family_too(
    examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ds_bert.modeling.families import FAMILIES

    monkeypatch.setitem(FAMILIES, "electra", FAMILIES["bert"])  # to be gone again when the test is over
    monkeypatch.delitem(FAMILIES, "electra")
    monkeypatch.delitem(sys.modules, "electra", raising=False)
    folder, extension = electra(tmp_path / "model", 24), ["--extensions", str(examples / "electra.py")]
    theirs = ElectraModel.from_pretrained(folder)
    assert ds_bert(["inspect", str(folder), "--json"]) == 2
    assert "expected one of bert, albert" in capsys.readouterr().err
    assert ds_bert([*extension, "inspect", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model_type"], found["head"], found["extra_weights"]) == ("electra", "base", [])
    assert found["sizes"]["embedding_size"] == 24
    assert found["parameters"] == sum(item.numel() for item in theirs.parameters())
    out = str(tmp_path / "out")
    assert ds_bert([*extension, "import", "--from", "huggingface", str(folder), "--output_dir", out]) == 0
    assert TensorFolder(Path(out)).shape("embeddings_project.weight") == (32, 24)
    again = ElectraModel.from_pretrained(out).state_dict()
    assert all(torch.equal(again[name], value) for name, value in theirs.state_dict().items())
    capsys.readouterr()
    make = ["make", "--stages", "2", "--config_name", str(folder), "--max_seq_length", "16"]
    assert ds_bert([*extension, "stage-map", *make]) == 0
    assert json.loads(capsys.readouterr().out)["module_to_stage_map"] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "mine.py: no such file; needed is a Python file that ends in .py"),
        ("x = 1\ny = x / 0\n", "mine.py, line 2: ZeroDivisionError: division by zero"),
        ("def f(:\n", "SyntaxError"),
    ],
)
def test_an_extension_that_does_not_work_is_one_sentence(tmp_path: Path, content: str | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    words = ["--extensions", tmp_path / "mine.py", "--train_path", tmp_path, "--config_name", "bert-mini"]
    printed = run(tmp_path, "pipelines/pretrain.py", words, 1, status=2)
    (error,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert expected in error and "Traceback" not in printed
