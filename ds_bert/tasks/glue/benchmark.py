"""The files of the GLUE benchmark: where they lie, what their columns are called, which labels they have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ds_bert.data.tables import open_table
from ds_bert.errors import UserError
from ds_bert.tasks.glue.features import TextData, TextSplit
from ds_bert.tasks.glue.hub import hub_table
from ds_bert.tasks.task import SPLITS

HUB_NAME = "nyu-mll/glue"


@dataclass(frozen=True)
class GlueFile:
    """One file of a task.

    Args:
        name: below the task's folder.
        texts, label, index: columns, see `TextSplit`.
        columns: the names of all columns, where the file has no header.
        incomplete: share of its lines that may be incomplete, see `open_table`.
        submission: the name that the GLUE server wants for its predictions.
        hub: the hub's name for the split; None where the hub has none.
        no_label: what stands in the place of a label where people did not agree on one; such rows are left out.
    """

    name: str
    texts: tuple[str, ...]
    label: str | None = None
    index: str | None = None
    columns: tuple[str, ...] | None = None
    incomplete: float = 0.0
    submission: str = ""
    hub: str | None = None
    no_label: str | None = None

    def open(self, folder: Path) -> TextSplit:
        """Open the file in this folder; raises `UserError` as `open_table` does."""
        table = open_table(folder / self.name, self.columns, self.incomplete)
        if self.label and self.no_label:
            table = table.without(self.label, self.no_label)
        return TextSplit(table, self.texts, self.label, self.index, self.submission)


@dataclass(frozen=True)
class GlueTask:
    """One task of the benchmark.

    Args:
        name: as users and the hub write it.
        folder: below the folder of the whole benchmark.
        labels: in the order of their ids; none: the label is a number.
        hub_texts: the hub's names of the text columns.
        splits: for each of `SPLITS`, its files by the names of a task's splits.
        also: other names that trained models have for the labels, in the same order.
    """

    name: str
    folder: str
    labels: tuple[str, ...]
    hub_texts: tuple[str, ...]
    splits: Mapping[str, Mapping[str, GlueFile]] = field(default_factory=dict)
    also: tuple[tuple[str, ...], ...] = ()


_PAIR = ("sentence1", "sentence2")
_YES_NO = ("0", "1")
_SIGNS = ("negative", "positive")
_RTE_LABELS = ("entailment", "not_entailment")
_MNLI_LABELS = ("entailment", "neutral", "contradiction")
_COLA = ("source", "label", "original_label", "sentence")


def _task(
    name: str,
    folder: str,
    labels: tuple[str, ...],
    hub_texts: tuple[str, ...],
    train: GlueFile,
    index: str = "index",
    also: tuple[str, ...] = (),
) -> GlueTask:
    """Describe a task of three files of one form: train.tsv, dev.tsv, and test.tsv without labels."""
    dev = replace(train, name="dev.tsv", hub="validation")
    test = GlueFile("test.tsv", train.texts, None, index, submission=f"{folder}.tsv", hub="test")
    splits = {"train": {"train": train}, "eval": {"validation": dev}, "predict": {"test": test}}
    others = tuple(filter(None, (also, _SIGNS if labels == _YES_NO else ())))
    return GlueTask(name, folder, labels, hub_texts, splits, others)


def _train(*texts: str, label: str = "label", columns: tuple[str, ...] | None = None) -> GlueFile:
    return GlueFile("train.tsv", texts, label, columns=columns, hub="train")


def _mnli() -> GlueTask:
    train = {"train": GlueFile("train.tsv", _PAIR, "gold_label", hub="train")}
    evaluation, prediction = {}, {}
    for genres, submission in (("matched", "MNLI-m.tsv"), ("mismatched", "MNLI-mm.tsv")):
        dev, test = f"validation_{genres}", f"test_{genres}"
        evaluation[dev] = GlueFile(f"dev_{genres}.tsv", _PAIR, "gold_label", hub=dev)
        prediction[test] = GlueFile(f"{test}.tsv", _PAIR, None, "index", submission=submission, hub=test)
    splits = {"train": train, "eval": evaluation, "predict": prediction}
    return GlueTask("mnli", "MNLI", _MNLI_LABELS, ("premise", "hypothesis"), splits)


def _diagnostic() -> GlueTask:
    full = GlueFile("diagnostic-full.tsv", ("Premise", "Hypothesis"), "Label")
    test = GlueFile("diagnostic.tsv", _PAIR, None, "index", submission="AX.tsv", hub="test")
    splits = {"train": {}, "eval": {"diagnostic": full}, "predict": {"diagnostic": test}}
    return GlueTask("ax", "diagnostic", _MNLI_LABELS, ("premise", "hypothesis"), splits)


_QNLI_TEXTS, _QQP_TEXTS = ("question", "sentence"), ("question1", "question2")
# Some questions of the official QQP files hold a newline, which cuts their line in two.
_QQP = replace(_train(*_QQP_TEXTS, label="is_duplicate"), incomplete=0.001)
TASKS: Mapping[str, GlueTask] = {
    task.name: task
    for task in (
        _task(
            "cola",
            "CoLA",
            _YES_NO,
            ("sentence",),
            _train("sentence", columns=_COLA),
            also=("unacceptable", "acceptable"),
        ),
        _task("sst2", "SST-2", _YES_NO, ("sentence",), _train("sentence")),
        _task(
            "mrpc",
            "MRPC",
            _YES_NO,
            _PAIR,
            _train("#1 String", "#2 String", label="Quality"),
            also=("not_equivalent", "equivalent"),
        ),
        _task("stsb", "STS-B", (), _PAIR, _train(*_PAIR, label="score")),
        _task("qqp", "QQP", _YES_NO, _QQP_TEXTS, _QQP, index="id", also=("not_duplicate", "duplicate")),
        _mnli(),
        _task("qnli", "QNLI", _RTE_LABELS, _QNLI_TEXTS, _train(*_QNLI_TEXTS)),
        _task("rte", "RTE", _RTE_LABELS, _PAIR, _train(*_PAIR)),
        _task("wnli", "WNLI", _YES_NO, _PAIR, _train(*_PAIR), also=("not_entailment", "entailment")),
        _diagnostic(),
    )
}


def _snli() -> GlueTask:
    def file(name: str, label: str | None = "gold_label") -> GlueFile:
        return GlueFile(f"{name}.tsv", _PAIR, label, submission="SNLI.tsv", no_label="-")

    splits = {
        "train": {"train": file("train")},
        "eval": {"validation": file("dev")},
        "predict": {"test": file("test", None)},
    }
    return GlueTask("snli", "SNLI", _MNLI_LABELS, ("premise", "hypothesis"), splits)


def _scitail() -> GlueTask:
    texts, columns = ("premise", "hypothesis"), ("premise", "hypothesis", "label")

    def file(name: str, label: str | None = "label") -> GlueFile:
        return GlueFile(f"scitail_1.0_{name}.tsv", texts, label, columns=columns, submission="SciTail.tsv")

    splits = {
        "train": {"train": file("train")},
        "eval": {"validation": file("dev")},
        "predict": {"test": file("test", None)},
    }
    return GlueTask("scitail", "SciTail", ("entails", "neutral"), texts, splits)


OTHER_TASKS: Mapping[str, GlueTask] = {task.name: task for task in (_snli(), _scitail())}
"""Tasks of the same kind that are not of the benchmark."""


def find_task(name: str) -> GlueTask:
    """Return the task of this name; capitals, "-" and "_" do not matter.

    Raises:
        UserError: there is none; the message lists the names.
    """
    plain = name.lower().replace("-", "").replace("_", "")
    known = {**TASKS, **OTHER_TASKS}
    task = known.get("ax" if plain == "diagnostic" else plain)
    if task is None:
        raise UserError(f"--task_name {name}: no such task; needs one of {', '.join(known)}")
    return task


def glue_data(task: GlueTask, data_dir: Path | None, splits: Sequence[str]) -> TextData:
    """Open a task's files.

    Beside MNLI, the diagnostic set is predicted where ``diagnostic/diagnostic.tsv`` lies next to its folder, and
    evaluated where ``diagnostic/diagnostic-full.tsv`` does.

    Args:
        task: one of `TASKS`.
        data_dir: the benchmark's folder or the task's own; None: the hub.
        splits: of `SPLITS`, what to open.

    Raises:
        UserError: a file is missing; see `open_table` and `hub_table`.
    """
    parts: dict[str, dict[str, TextSplit]] = {}
    for split in SPLITS:
        files = task.splits[split] if split in splits else {}
        if split in splits and not files:
            raise UserError(f"--task_name {task.name}: has nothing to train on; train on mnli and give that checkpoint")
        opened = _open_hub(task, files) if data_dir is None else _open_files(task, data_dir, split, files)
        parts[split] = opened
    return TextData(task.name, task.labels, parts["train"].get("train"), parts["eval"], parts["predict"])


def _open_files(task: GlueTask, data_dir: Path, split: str, files: Mapping[str, GlueFile]) -> dict[str, TextSplit]:
    folder = data_dir / task.folder
    folder = folder if folder.is_dir() else data_dir
    missing = [file.name for file in files.values() if not (folder / file.name).is_file()]
    if missing:
        present = ", ".join(sorted(path.name for path in folder.glob("*.tsv"))) or "no .tsv file"
        raise UserError(f"{folder}: no {' and no '.join(missing)}, which {task.name} ({split}) needs; found {present}")
    sources = {name: file.open(folder) for name, file in files.items()}
    if task.name == "mnli" and files:
        diagnostic = TASKS["ax"]
        beside = folder.parent / diagnostic.folder
        for name, file in diagnostic.splits[split].items():
            if (beside / file.name).is_file():
                sources[name] = file.open(beside)
    return sources


def _open_hub(task: GlueTask, files: Mapping[str, GlueFile]) -> dict[str, TextSplit]:
    sources = {}
    for name, file in files.items():
        if file.hub is None:
            raise UserError(f"--task_name {task.name}: the hub has no {file.name}; give its folder with --data_dir")
        table = hub_table(HUB_NAME, task.name, file.hub, task.labels)
        label = "label" if file.label else None
        sources[name] = TextSplit(table, task.hub_texts, label, "idx" if file.index else None, file.submission)
    return sources
