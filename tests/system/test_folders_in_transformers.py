"""What every job writes behaves in transformers as here: configuration, tokenizer, weights, predictions."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken
from transformers import AlbertTokenizer, AutoConfig, AutoTokenizer, BertTokenizer, pipeline

from ds_bert.checkpoint.folders import checkpoints
from ds_bert.cli import main
from tests.support.jobs import run_job
from tests.support.many_tasks import write_tasks
from tests.support.tokenizer_folders import albert_pieces, wordpiece_tokens

POSITIONS = 64
WORDS = ["the", "The", "cat", "saw", "möchte", "mochte", "café", "[E1] Bill [/E1]", "北京", "[SEP]", "it's", "(the)"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["bert", "albert"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three labels in float16, with added tokens, and with a tokenizer of settings that are unusual."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "bert":
        vocabulary = {token: place for place, token in enumerate(wordpiece_tokens())}
        tokenizer: Any = BertTokenizer(vocab=vocabulary, strip_accents=False, tokenize_chinese_chars=False)
    else:
        tokenizer = AlbertTokenizer(vocab=albert_pieces(), do_lower_case=False)
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in ("[E1]", "[/E1]")])
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    labels = {"num_labels": 3, "problem_type": "multi_label_classification"}
    config = AutoConfig.for_model(
        request.param, vocab_size=len(tokenizer), max_position_embeddings=POSITIONS, **sizes, **labels
    )
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.half().save_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).dtype == torch.float16
    return folder


def check_run(out: Path, family: str, kind: str) -> tuple[Any, Any]:
    """Check the one checkpoint of a run, and the run's folder, which stands for it; return tokenizer and model."""
    (checkpoint,) = checkpoints(out)
    tokenizer, model = check(checkpoint, family, kind)
    _, same = check(out, family, kind)
    assert all(map(torch.equal, model.state_dict().values(), same.state_dict().values()))
    return tokenizer, model


def check(folder: Path, family: str, kind: str) -> tuple[Any, Any]:
    """Check what transformers reads in a folder; return its tokenizer and its model."""
    name = f"{family.title()}{kind if kind == 'Model' else f'For{kind}'}"
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (config.architectures, config.dtype) == ([name], torch.float32)
    model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "mismatched_keys", "unexpected_keys")), report
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer.model_max_length == config.max_position_embeddings == POSITIONS
    assert len(tokenizer) <= config.vocab_size and tokenizer.pad_token_id == config.pad_token_id
    assert tokenizer.padding_side == "right" and tokenizer("the", "cat")["token_type_ids"][-1] == 1
    too_long = tokenizer("the " * 200, truncation=True, return_tensors="pt")
    if kind != "MultipleChoice":
        assert model(**too_long)[0].isfinite().all()
    return tokenizer, model.eval()


def run(job: str, tmp_path: Path, model: Path, **flags: Any) -> Path:
    """Run a job that predicts what it has learned; return its folder."""
    usual = {"max_steps": 4, "learning_rate": 1e-3, "max_seq_length": 48, "cache_dir": tmp_path / "cache"}
    flags = {"model_name_or_path": model, "output_dir": tmp_path / "out", **usual, **flags}
    words = [part for name, value in flags.items() for part in (f"--{name}", value) if part is not True]
    (ended,) = run_job(job, tmp_path / "printed", words, timeout=180)
    printed = "".join(path.read_text() for path in sorted((tmp_path / "printed").glob("*.txt")))
    assert ended.status == 0, printed
    return tmp_path / "out"


def write_texts(path: Path, pairs: bool, numbers: bool, count: int = 24) -> list[dict[str, str]]:
    """Write texts, or pairs, with classes or numbers to predict."""
    chance, rows = random.Random(len(path.name)), []
    for number in range(count):
        row = {"sentence1": " ".join(chance.choices(WORDS, k=chance.randint(1, 6)))}
        row |= {"sentence2": " ".join(chance.choices(WORDS, k=chance.randint(1, 6)))} if pairs else {}
        rows.append(row | {"label": f"{chance.random():.2f}" if numbers else ("no", "yes", "perhaps")[number % 3]})
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("numbers", [False, True])
def test_texts_get_the_scores_that_were_predicted(source: Path, tmp_path: Path, pairs: bool, numbers: bool) -> None:
    files = {name: tmp_path / f"{name}.csv" for name in ("train", "validation", "test")}
    *_, rows = (write_texts(path, pairs, numbers) for path in files.values())
    named = {f"{name}_file": path for name, path in files.items()}
    drop = {"drop_classifier": True}
    out = run("pipelines/finetune_glue.py", tmp_path, source, do_train=True, do_predict=True, **named, **drop)
    (checkpoint,) = checkpoints(out)
    family = AutoConfig.from_pretrained(source).model_type
    check_run(out, family, "SequenceClassification")
    classify: Any = pipeline("text-classification", model=str(out), batch_size=5)
    inputs = [{"text": row["sentence1"], "text_pair": row.get("sentence2")} for row in rows]
    found = classify(inputs)
    with open(out / "predictions" / "predictions.tsv", encoding="utf-8") as file:
        predicted = [row["prediction"] for row in csv.DictReader(file, delimiter="\t")]
    if numbers:
        assert [each["score"] for each in found] == pytest.approx([float(value) for value in predicted], abs=1e-5)
        assert len(set(predicted)) > 10
    else:
        assert [each["label"] for each in found] == predicted
    for name, flags in (("exported", []), ("token", ["--head", "token-classification", "--num_labels", "5"])):
        assert main(["export", str(checkpoint), "--output_dir", str(tmp_path / name), *flags]) == 0
        check(tmp_path / name, family, "TokenClassification" if flags else "SequenceClassification")
        assert AutoConfig.from_pretrained(tmp_path / name).num_labels == (5 if flags else 1 if numbers else 3)
    assert pipeline("text-classification", model=str(tmp_path / "exported"))(inputs) == classify(inputs, batch_size=1)
    words = ["import", "--from", "huggingface", str(tmp_path / "exported"), "--output_dir", str(tmp_path / "imported")]
    assert main(words) == 0
    check(tmp_path / "imported", family, "SequenceClassification")
    assert pipeline("text-classification", model=str(tmp_path / "imported"))(inputs) == classify(inputs, batch_size=1)


def test_answers_are_those_of_the_model(source: Path, tmp_path: Path) -> None:
    chance, questions = random.Random(1), {}
    for name in ("train", "dev"):
        paragraphs = []
        for number in range(24):
            context = " ".join(chance.choices(WORDS, k=10))
            answer = chance.choice(context.split(" "))
            question = {"id": f"q{number}", "question": "the cat saw [E1] ?"}
            question["answers"] = [{"text": answer, "answer_start": context.index(answer)}]  # type: ignore[assignment]
            paragraphs.append({"context": context, "qas": [question]})
            questions[f"q{number}"] = (question["question"], context)
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    files = {"train_file": tmp_path / "train.json", "predict_file": tmp_path / "dev.json", "max_query_length": 20}
    out = run(
        "pipelines/finetune_squad.py", tmp_path, source, do_train=True, do_eval=True, drop_classifier=True, **files
    )
    tokenizer, model = check_run(out, AutoConfig.from_pretrained(source).model_type, "QuestionAnswering")
    nbest = json.loads((out / "evaluation" / "nbest_predictions.json").read_text())
    for name, (question, context) in questions.items():
        inputs = tokenizer(question, context, return_tensors="pt")
        with torch.no_grad():
            scores = model(**inputs)
        for answer in nbest[name][:1]:
            starts, ends = scores.start_logits[0], scores.end_logits[0]
            assert starts.isclose(torch.tensor(answer["start_logit"]), atol=1e-4).any()
            assert ends.isclose(torch.tensor(answer["end_logit"]), atol=1e-4).any()


def test_options_are_chosen_as_by_the_model(source: Path, tmp_path: Path) -> None:
    chance = random.Random(2)
    rows = []
    for name in ("train", "validation", "test"):
        rows = [
            {
                "context": " ".join(chance.choices(WORDS, k=6)),
                "question": "the cat saw",
                "options": chance.sample(WORDS, 3),
                "label": chance.randrange(3),
            }
            for _ in range(24)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {f"{name}_file": tmp_path / f"{name}.jsonl" for name in ("train", "validation", "test")}
    every = {"do_train": True, "do_predict": True, "drop_classifier": True, "max_qa_length": 20}
    out = run("pipelines/finetune_multiple_choice.py", tmp_path, source, **every, **files)
    tokenizer, model = check_run(out, AutoConfig.from_pretrained(source).model_type, "MultipleChoice")
    predicted = json.loads((out / "predictions" / "predictions.json").read_text())
    for row, option in zip(rows, predicted.values(), strict=True):
        texts = [f"{row['question']} {text}" for text in row["options"]]
        inputs = tokenizer([row["context"]] * 3, texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**{name: value[None] for name, value in inputs.items()}).logits[0]
        assert logits[option] == pytest.approx(float(logits.max()), abs=1e-5)


def test_pre_training_and_its_exports(source: Path, tmp_path: Path) -> None:
    chance = random.Random(3)
    documents = [[" ".join(chance.choices(WORDS, k=6)) for _ in range(4)] for _ in range(40)]
    (tmp_path / "text.txt").write_text("\n\n".join("\n".join(sentences) for sentences in documents) + "\n")
    words = ["prepare", "--input", str(tmp_path / "text.txt"), "--tokenizer_name", str(source), "--num_workers", "1"]
    assert main([*words, "--format", "lines", "--output_dir", str(tmp_path / "data")]) == 0
    out = tmp_path / "out"
    flags = {"train_path": tmp_path / "data", "model_name_or_path": source, "output_dir": out, "max_steps": 4}
    flags |= {"max_seq_length": 48, "learning_rate": 1e-3, "per_device_train_batch_size": 4}
    (ended,) = run_job(
        "pipelines/pretrain.py", tmp_path / "printed", [x for n, v in flags.items() for x in (f"--{n}", v)]
    )
    printed = "".join(path.read_text() for path in sorted((tmp_path / "printed").glob("*.txt")))
    assert ended.status == 0, printed
    (checkpoint,) = checkpoints(out)
    family = AutoConfig.from_pretrained(source).model_type
    check_run(out, family, "PreTraining")
    assert main(["export", str(checkpoint), "--head", "masked-lm", "--output_dir", str(tmp_path / "mlm")]) == 0
    check(tmp_path / "mlm", family, "MaskedLM")
    fill: Any = pipeline("fill-mask", model=str(tmp_path / "mlm"))
    assert fill("the [MASK] saw", top_k=3)
    assert AutoConfig.from_pretrained(checkpoint).num_labels == 2  # not the source's three


def test_many_tasks_leave_an_encoder(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "many")
    many = {"tasks": folder / "own.json", "data_dir": folder / "glue", "conditional": "none", "max_seq_length": 24}
    out = run("pipelines/multitask.py", tmp_path, folder / "model", do_train=True, **many)
    (checkpoint,) = checkpoints(out)
    assert len(AutoTokenizer.from_pretrained(out)) == len(tokenizer := AutoTokenizer.from_pretrained(checkpoint))
    assert tokenizer.model_max_length == POSITIONS and AutoConfig.from_pretrained(checkpoint).dtype == torch.float32
    flags = ["--head", "base", "--drop_extra_weights", "--output_dir", str(tmp_path / "base")]
    assert main(["export", str(checkpoint), *flags]) == 0
    check(tmp_path / "base", "bert", "Model")


@pytest.mark.parametrize("pairs", [False, True])
def test_a_model_with_one_token_type(tmp_path: Path, pairs: bool) -> None:
    """As in transformers: single texts work; pairs, which fail there, are refused."""
    vocabulary = {token: place for place, token in enumerate(wordpiece_tokens())}
    BertTokenizer(vocab=vocabulary).save_pretrained(tmp_path / "model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=300, max_position_embeddings=POSITIONS, type_vocab_size=1, **sizes)
    transformers.BertModel(config).save_pretrained(tmp_path / "model")
    rows = write_texts(tmp_path / "train.csv", pairs, True)
    files = {"train_file": tmp_path / "train.csv", "test_file": tmp_path / "train.csv"}
    settings = {"do_train": True, "do_predict": True, **files}
    if pairs:
        with pytest.raises(AssertionError, match=r"own data \(train\): has pairs of texts"):
            run("pipelines/finetune_glue.py", tmp_path, tmp_path / "model", **settings)
        assert not (tmp_path / "out").exists()
        return
    out = run("pipelines/finetune_glue.py", tmp_path, tmp_path / "model", **settings)
    classify: Any = pipeline("text-classification", model=str(out))
    found = [each["score"] for each in classify([row["sentence1"] for row in rows])]
    with open(out / "predictions" / "predictions.tsv", encoding="utf-8") as file:
        predicted = [float(row["prediction"]) for row in csv.DictReader(file, delimiter="\t")]
    assert found == pytest.approx(predicted, abs=1e-5)
