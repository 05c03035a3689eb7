"""The README's commands and those of the guides, run as they stand, on a tiny model and little text."""

import csv
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, BertForPreTraining

from tests.support.documents import Block, blocks, run
from tests.support.jobs import REPOSITORY
from tests.support.model_folder import write_bert_folder
from tests.system.test_finetune import BAD, FILLER, GOOD

pytestmark = pytest.mark.slow


def write_table(path: Path, count: int, labels: bool = True) -> None:
    chance = random.Random(path.name)
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"][: 1 + labels])
        for number in range(count):
            text = f"the film was {chance.choice((BAD, GOOD)[number % 2])}"
            rows.writerow([text, ("bad", "good")[number % 2]][: 1 + labels])


def write_squad(path: Path) -> None:
    context = "the story was sad and the film was great"
    answers = [{"text": "sad", "answer_start": context.index("sad")}]
    questions = [{"id": f"{path.stem}-{number}", "question": "what was it", "answers": answers} for number in range(4)]
    path.write_text(json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": context, "qas": questions}]}]}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documents take for granted: a model's folder, text, tables, and data of GLUE's, SQuAD's and SWAG's."""
    folder = tmp_path_factory.mktemp("guides")
    words = [*GOOD, *BAD, *FILLER, "and", "what"]
    write_bert_folder(folder / "bert-base-uncased", words, BertForPreTraining, max_position_embeddings=512)
    chance = random.Random(1)
    texts = [". ".join(" ".join(chance.choices(words, k=8)) for _ in range(12)) + "." for _ in range(60)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "corpus.txt").write_text("\n\n".join(texts))
    for name, count in (("train.csv", 48), ("dev.csv", 12)):
        write_table(folder / name, count)
    write_table(folder / "test.csv", 7, labels=False)
    (folder / "glue/MRPC").mkdir(parents=True)
    for split in ("train", "dev"):
        rows = [f"{n % 2}\t1\t2\tthe film was good\tthe story was {('bad', 'good')[n % 2]}\n" for n in range(16)]
        header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        (folder / "glue/MRPC" / f"{split}.tsv").write_text(header + "".join(rows))
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        write_squad(folder / name)
    (folder / "swag").mkdir()
    for split in ("train", "val"):
        with open(folder / "swag" / f"{split}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["sent1", "sent2", *(f"ending{number}" for number in range(4)), "label"])
            table.writerows([["the film was sad .", "it", *chance.sample(FILLER, 4), n % 4] for n in range(8)])
    return folder


def document(name: str) -> list[Block]:
    return [block for block in blocks(REPOSITORY / name) if block.language in ("", "python")]


def test_readme(folder: Path) -> None:
    """All but `make`, which CI runs."""
    made, *others = document("README.md")
    assert re.findall(r"^make ([\w-]+)", made.text, re.MULTILINE) == ["demo", "test"] and len(others) == 1
    assert "accuracy" in run(others, folder)
    assert AutoModelForSequenceClassification.from_pretrained(folder / "runs/reviews").config.num_labels == 2


def test_domain_pretraining(folder: Path) -> None:
    found = document("docs/domain_pretraining.md")
    assert [block.language for block in found] == ["", "", "python", "python"]
    run(found, folder)
    _, report = AutoModelForMaskedLM.from_pretrained(folder / "runs/field", output_loading_info=True)
    assert not report["missing_keys"]


def test_stage_maps(tmp_path: Path) -> None:
    assert "encoder layers" in run(document("docs/stage_maps.md")[1:], tmp_path)  # after a drawing


def test_own_csv_and_its_onnx(tmp_path: Path, folder: Path) -> None:
    """In a folder of its own, whose names the README has, too; ONNX gives torch's numbers."""
    for name in ("bert-base-uncased", "train.csv", "dev.csv", "test.csv"):
        (tmp_path / name).symlink_to(folder / name)
    printed = run(document("docs/own_csv.md"), tmp_path)
    assert "'label': 'good'" in printed or "'label': 'bad'" in printed
    assert len((tmp_path / "runs/reviews/predictions/predictions.tsv").read_text().splitlines()) == 8

    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (pip install -e '.[onnx]')")
    import onnxruntime

    run(document("docs/onnx.md"), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "runs/reviews")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "runs/reviews").eval()
    session = onnxruntime.InferenceSession(tmp_path / "reviews.onnx")
    for texts in (["good"], ["the film was bad", "a story and a film and a story"], ["it"] * 5):
        (found,) = session.run(["logits"], dict(tokenizer(texts, padding=True, return_tensors="np")))
        expected = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_coming_from_transformers(folder: Path) -> None:
    found = document("docs/coming_from/transformers.md")
    assert [block.language for block in found] == ["", "python", ""]
    run(found, folder)
    for name, measure in (("mrpc", "f1"), ("squad", "exact_match"), ("swag", "accuracy")):
        assert measure in json.loads((folder / f"runs/{name}/eval_results.json").read_text())


def test_coming_from_deepspeed(folder: Path) -> None:
    printed = run(document("docs/coming_from/deepspeed.md"), folder)
    assert "bf16" in printed and (folder / "runs/deepspeed/eval_results.json").is_file()


def test_domain_pretraining_from_python(folder: Path) -> None:
    command = "python docs/examples/domain_pretraining.py bert-base-uncased/ corpus.jsonl runs/from-python"
    assert command.rpartition(" ")[0] in (REPOSITORY / "docs/examples/domain_pretraining.py").read_text()
    printed = run([Block("", f"{command} --epochs 4 --max_seq_length 32")], folder)
    (before, after) = re.findall(r"(?:before|after): ([\d.]+)", printed)
    assert float(after) < float(before)
