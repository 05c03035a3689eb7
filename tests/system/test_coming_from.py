"""The commands that stand for others' in docs/coming_from/ give the work that those give: batch, steps and rates.

Each is run as it stands there, at a tiny size: with other models, data and cuts, and where the seed's own durations are
shortened, with the same shorter ones. What the seed does is worked out from its flags by its own code's rules.
"""

import json
import random
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.meta.tasks.published_files import encode_tasks
from ds_bert.meta.tasks.task_set import TaskExamples
from ds_bert.training.log import read_log
from tests.support import many_tasks
from tests.support.jobs import run_job
from tests.support.model_folder import write_bert_folder
from tests.system.test_finetune_questions import WORDS, write_squad
from tests.test_docs import ROOT, commands

pytestmark = pytest.mark.slow
Flags = Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """What a training does: examples (or tasks) of an optimizer step, steps, and the learning rate of each."""

    batch: int
    steps: int
    rates: list[float]


def google(peak: float, steps: int, warmup: int) -> list[float]:
    """Of google-research/bert's ``create_optimizer``, which EPL, ALBERT and Meta-Adapters have."""
    return [peak * step / warmup if step < warmup else peak * (1 - step / steps) for step in range(steps)]


def warmup_linear(peak: float, steps: int, share: float) -> list[float]:
    """Of pytorch-pretrained-bert's ``warmup_linear``, and of transformers' linear schedule."""
    shares = [step / steps for step in range(steps)]
    return [peak * (x / share if x < share else (x - 1) / (share - 1)) for x in shares]


def command(document: str, job: str, place: int = 0) -> dict[str, Any]:
    """The flags of the ``place``-th command of a job in a document; None where a flag stands by itself."""
    text = (ROOT / "docs" / "coming_from" / document).read_text()
    found = [line for line in commands(text) if f"pipelines/{job}.py" in line]
    words = shlex.split(found[place].partition(f"pipelines/{job}.py")[2])
    flags: dict[str, Any] = {}
    for word in words:
        if word.startswith("--"):
            flags[word[2:]] = None
        else:
            assert flags and list(flags.values())[-1] is None, word
            flags[list(flags)[-1]] = word
    return flags


def carry_out(folder: Path, job: str, flags: Flags, ranks: int) -> str:
    """Run a job; return what rank 0 printed."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [word for name, value in flags.items() for word in (f"--{name}", *([] if value is None else [value]))]
    ended = run_job(f"pipelines/{job}.py", folder / "printed", words, ranks, timeout=300)
    printed = "".join(path.read_text() for path in sorted((folder / "printed").glob("*.txt")))
    assert [end.status for end in ended] == [0] * ranks, printed
    return printed


def work_of(printed: str, out: Path | None) -> Work:
    """What a run says that it does, and the rates that it has logged."""
    batch = re.search(r"([\d,]+) (?:examples|sequences|tasks) a step", printed)
    steps = re.search(r"steps: +([\d,]+)", printed)
    assert batch and steps, printed
    rates = [entry["train/learning_rate"] for entry in read_log(out) if "train/learning_rate" in entry] if out else []
    return Work(int(batch[1].replace(",", "")), int(steps[1].replace(",", "")), rates)


def compare(found: Work, expected: Work) -> None:
    assert (found.batch, found.steps) == (expected.batch, expected.steps)
    assert found.rates == pytest.approx(expected.rates, rel=1e-9, abs=1e-15)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [*WORDS, *many_tasks.GOOD, *many_tasks.BAD, *many_tasks.FILLER]
    return write_bert_folder(tmp_path_factory.mktemp("bert") / "bert", words, max_position_embeddings=512)


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SST-2, STS-B, MRPC and MNLI of 640 examples each, and CoLA of 40."""
    folder = tmp_path_factory.mktemp("glue")
    many_tasks.write_tasks(folder, train=640)
    chance = random.Random(3)
    for split, count in (("train", 40), ("dev", 8)):
        rows = [f"gj04\t{n % 2}\t\tthe film was {chance.choice(many_tasks.GOOD)}\n" for n in range(count)]
        (folder / "glue" / "CoLA").mkdir(exist_ok=True)
        (folder / "glue" / "CoLA" / f"{split}.tsv").write_text("".join(rows))
    return folder / "glue"


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The toy to pre-train, with as many positions as the commands need."""
    path = tmp_path_factory.mktemp("longer") / "bert.json"
    path.write_text(json.dumps(json.loads(model.read_text()) | {"max_position_embeddings": 128}))
    return path


def write_map(path: Path, stages: int, replicas: int) -> Path:
    """A map of the six layers of the toy."""
    owners = [layer * stages // 6 for layer in range(6)]
    ranks = {str(stage): [stage * replicas + replica for replica in range(replicas)] for stage in range(stages)}
    path.write_text(json.dumps({"module_to_stage_map": owners, "stage_to_rank_map": ranks}))
    return path


def test_pipedream_s_throughput_experiment(tmp_path: Path, prepared: Path, longer: Path) -> None:
    """An update after as many micro-batches as the pipeline is deep; 2BW, by default."""
    seed = {"train_batch_size": 16, "gradient_accumulation_steps": 1, "num_minibatches": 8, "depth": 2, "replicas": 1}
    flags = command("pipedream.md", "pretrain") | {
        "config_name": longer, "train_path": prepared, "num_minibatches": 8,
        "stage_map": write_map(tmp_path / "map.json", 2, 1), "gradient_accumulation_steps": 2,
    }  # fmt: skip
    printed = carry_out(tmp_path, "pretrain", flags, ranks=2)
    interval = seed["depth"] * seed["gradient_accumulation_steps"]
    batch = seed["train_batch_size"] * interval * seed["replicas"]
    compare(work_of(printed, None), Work(batch, seed["num_minibatches"] // interval, []))
    assert "2bw" in printed


def test_pipedream_to_accuracy(tmp_path: Path, prepared: Path, longer: Path) -> None:
    """dp_conf.json has one stage: data parallel, updates after each micro-batch, without a delay."""
    peak, epochs, batch, replicas = 2e-5, 2, 8, 2
    flags = command("pipedream.md", "pretrain", 1)
    assert flags["num_train_epochs"] == "30"
    flags |= {
        "config_name": longer, "train_path": prepared, "num_train_epochs": epochs, "logging_steps": 1,
        "stage_map": write_map(tmp_path / "map.json", 1, replicas), "output_dir": tmp_path / "out",
    }  # fmt: skip
    printed = carry_out(tmp_path, "pretrain", flags, ranks=2)
    (examples,) = re.findall(r"examples: (\d+) to train on", printed)
    steps = int(int(examples) / batch / 1) * epochs // replicas
    compare(work_of(printed, tmp_path / "out"), Work(batch * replicas, steps, warmup_linear(peak, steps, 0.1)))


def test_pipedream_on_glue(tmp_path: Path, bert: Path, glue: Path) -> None:
    """Each of the processes takes 32 examples a step, three epochs at 5e-5."""
    flags = command("pipedream.md", "finetune_glue") | {
        "model_name_or_path": bert, "data_dir": glue, "output_dir": tmp_path / "out", "logging_steps": 1,
        "cache_dir": tmp_path / "cache",
    }  # fmt: skip
    steps = int(640 / 32 / 1) * 3 // 2
    printed = carry_out(tmp_path, "finetune_glue", flags, ranks=2)
    compare(work_of(printed, tmp_path / "out"), Work(32 * 2, steps, warmup_linear(5e-5, steps, 0.1)))


@pytest.mark.parametrize("place", [0, 1], ids=["data parallel", "pipeline"])
def test_epl(tmp_path: Path, bert: Path, place: int) -> None:
    """``train_batch_size`` is that of a whole step: it is divided by micro-batches and replicas."""
    seed = {"train_batch_size": 12, "learning_rate": 3e-5, "num_train_epochs": 2.0, "warmup_proportion": 0.1}
    for name, count in (("train", 60), ("dev", 6)):
        write_squad(tmp_path / f"{name}.json", count, 1, version_2=False)
    flags = command("epl.md", "finetune_squad", place) | {
        "model_name_or_path": bert, "train_file": tmp_path / "train.json", "predict_file": tmp_path / "dev.json",
        "output_dir": tmp_path / "out", "logging_steps": 1, "cache_dir": tmp_path / "cache",
    }  # fmt: skip
    steps = int(60 / seed["train_batch_size"] * seed["num_train_epochs"])
    warmup = int(steps * seed["warmup_proportion"])
    printed = carry_out(tmp_path, "finetune_squad", flags, ranks=2)
    expected = Work(int(seed["train_batch_size"]), steps, google(seed["learning_rate"], steps, warmup))
    compare(work_of(printed, tmp_path / "out"), expected)


def test_albert(tmp_path: Path, bert: Path, glue: Path) -> None:
    """``train_batch_size`` is that of one GPU; 20 steps in the place of 5,336, 4 of 320 to warm up."""
    seed = {"train_batch_size": 8, "num_gpu_cores": 2, "learning_rate": 5e-6, "train_step": 20, "warmup_step": 4}
    flags = command("albert.md", "finetune_glue")
    assert (flags["max_steps"], flags["warmup_steps"]) == ("5336", "320")
    flags |= {
        "model_name_or_path": bert, "data_dir": glue, "output_dir": tmp_path / "out", "logging_steps": 1,
        "cache_dir": tmp_path / "cache", "max_steps": seed["train_step"], "warmup_steps": seed["warmup_step"],
    }  # fmt: skip
    printed = carry_out(tmp_path, "finetune_glue", flags, ranks=2)
    rates = google(seed["learning_rate"], int(seed["train_step"]), int(seed["warmup_step"]))
    batch = int(seed["train_batch_size"] * seed["num_gpu_cores"])
    compare(work_of(printed, tmp_path / "out"), Work(batch, int(seed["train_step"]), rates))


def test_ca_mtl(tmp_path: Path, bert: Path, glue: Path) -> None:
    """Its README's command: batches of 8 of all tasks' examples together; here of 64 of each of four tasks."""
    seed = {"per_gpu_train_batch_size": 8, "num_train_epochs": 5, "learning_rate": 2e-5, "warmup_proportion": 0.1}
    flags = command("ca_mtl.md", "multitask")
    flags = {"tasks": "SST-2", **flags} | {
        "model_name_or_path": bert, "data_dir": glue, "output_dir": tmp_path / "out", "logging_steps": 1,
        "cache_dir": tmp_path / "cache", "max_train_samples": 64, "tasks": tasks_file(tmp_path),
    }  # fmt: skip
    batches = -(-4 * 64 // int(seed["per_gpu_train_batch_size"]))
    steps = batches * int(seed["num_train_epochs"])
    printed = carry_out(tmp_path, "multitask", flags, ranks=1)
    rates = warmup_linear(seed["learning_rate"], steps, seed["warmup_proportion"])
    compare(work_of(printed, tmp_path / "out"), Work(int(seed["per_gpu_train_batch_size"]), steps, rates))
    assert "encoder layer 1, the last, begins with fresh weights, as in CA-MTL's code" in printed


def tasks_file(folder: Path) -> Path:
    path = folder / "tasks.txt"
    path.write_text("\n".join(many_tasks.TASKS))
    return path


def write_records(path: Path, model: Path, ways: int, tasks: int, size: int = 90) -> int:
    """Write so many tasks of encoded examples, in each of which a token tells the class; return the records."""
    chance, tokenizer = np.random.default_rng(tasks), load_tokenizer(model)
    made = []
    for number in range(tasks):
        labels = np.arange(size) % ways
        rows = [np.array([tokenizer.cls_id, 10 + label, *chance.integers(40, 60, 3), tokenizer.sep_id])
                for label in labels.tolist()]  # fmt: skip
        made.append(TaskExamples(rows, [6] * size, labels, size, ways, str(number)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_tasks(made, ".tf_record", 128, tokenizer.pad_id))
    return tasks * size


def test_meta_adapters(tmp_path: Path, bert: Path) -> None:
    """Two processes, one for supervised tasks: two tasks a step, and as many steps as the self-made file has tasks.

    Then few-shot fine-tuning of what came of it: 10 epochs in the place of 100.
    """
    size, processes, supervised, peak = 90, 2, 1, 1e-5
    data = tmp_path / "data"
    records = write_records(data / "meta_pretraining_32_4.tf_record", bert, 4, 10)
    labelled = {f"data/{name}_train_2.tf_record": write_records(data / f"{name}_train_2.tf_record", bert, 2, 2)
                for name in ("mrpc", "rte")}  # fmt: skip
    (data / "data.json").write_text(json.dumps({"data/meta_pretraining_32_4.tf_record": records}))
    (data / "supervised_data.json").write_text(json.dumps(labelled))
    flags = command("meta_adapters.md", "meta_train") | {
        "model_name_or_path": bert, "data_dir": data, "task_train_files": data / "data.json", "logging_steps": 1,
        "supervised_train_files": data / "supervised_data.json", "output_dir": tmp_path / "meta",
        "cache_dir": tmp_path / "cache",
    }  # fmt: skip
    steps = int(records / (size * (processes - supervised)))
    printed = carry_out(tmp_path / "train", "meta_train", flags, ranks=2)
    expected = Work(processes, steps, google(peak, steps, int(0.1 * steps)))
    compare(work_of(printed, tmp_path / "meta"), expected)

    write_records(tmp_path / "films_train_0_16.tf_record", bert, 2, 1, size=32)
    write_records(tmp_path / "films_eval.tf_record", bert, 2, 1, size=64)
    seed = {"epochs": 10, "k": 16, "num_labels": 2, "train_batch_size": 16}
    flags = command("meta_adapters.md", "few_shot")
    assert flags["epochs"] == "100"
    flags |= {
        "checkpoint": tmp_path / "meta", "support_file": tmp_path / "films_train_0_16.tf_record",
        "test_file": tmp_path / "films_eval.tf_record", "output_dir": tmp_path / "few", "epochs": seed["epochs"],
    }  # fmt: skip
    carry_out(tmp_path / "tune", "few_shot", flags, ranks=1)
    (result,) = json.loads((tmp_path / "few" / "results.json").read_text())["results"].values()
    assert result["steps"] == int(seed["epochs"] * float(seed["k"] * seed["num_labels"]) / seed["train_batch_size"])
