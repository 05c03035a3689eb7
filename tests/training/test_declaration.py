"""What is declared of every flag of every job: complete, of one mind between jobs, and what the parser goes by."""

import json
import math
import re
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from ds_bert.errors import UserError
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.declaration import TOLD, Bounds, Flag, Kind, Subject, argument, at_least, flags_of, redeclare
from ds_bert.training.parser import parse_arguments
from ds_bert.training.unknown import jobs

JOBS = {Path(script).stem: kind for kind, script in jobs().items()}
each_job = pytest.mark.parametrize("job", JOBS)
UNBOUNDED = {"local_rank", "null_score_diff_threshold"}  # numbers of any size
RANKS_MAY_DIFFER = {"local_rank", "disable_tqdm", "overwrite_cache"}  # besides places of files
PLACES = {
    "output_dir", "cache_dir", "stage_map", "deepspeed_config", "extensions", "config_name", "model_name_or_path",
    "tokenizer_name", "checkpoint", "tasks", "data_dir", "task_dir", "train_path", "eval_path", "train_file",
    "validation_file", "test_file", "predict_file", "support_file", "task_train_files", "supervised_train_files",
    "recipe_defaults",
}  # fmt: skip
CHOICES = {
    "optim", "lr_scheduler_type", "schedule", "transport", "head", "conditional", "task_sampling", "uncertainty_form",
    "pooling", "conditional_last_layer",
}  # fmt: skip


def inner_type(kind: type, name: str) -> type:
    """The type of a flag's value, or of each of a list's."""
    hint = typing.get_type_hints(kind)[name]
    return next(part for part in (typing.get_args(hint) or (hint,)) if part is not type(None))


@each_job
def test_every_flag_has_all_facts(job: str) -> None:
    kind = JOBS[job]
    assert all("flag" in declared.metadata for declared in fields(kind))
    for name, flag in flags_of(kind).items():
        assert re.fullmatch(r"[A-Z0-9\"].*[^.]\.", flag.help) and "default" not in flag.help, (name, flag.help)
        type_ = inner_type(kind, name)
        assert isinstance(flag.allowed, Bounds) == (type_ in (int, float) and name not in UNBOUNDED), name
        assert (flag.choices is not None) == (name in CHOICES), name
        assert flag.choices is None or flag.default in flag.choices, name
        assert flag.kind.is_path == (name in PLACES), name
        assert (flag.kind is Kind.STEPS) == (name in ("trace_steps", "profile_steps")), name
        assert flag.ranks_agree == (name not in RANKS_MAY_DIFFER | PLACES), name
        assert not flag.refusal(flag.default), name
    shared = [flag.deepspeed for flag in flags_of(kind).values() if flag.deepspeed]
    assert len(set(shared)) == len(shared)


def test_no_flag_can_be_declared_without_its_subject_and_what_resuming_makes_of_it() -> None:
    with pytest.raises(TypeError):
        argument(3, "A size.")  # type: ignore[call-arg]


def test_a_plain_field_of_a_users_own_job(capsys: pytest.CaptureFixture) -> None:
    @dataclass
    class OwnArguments(TrainingArguments):
        """A job's."""

        size: int = 3
        names: list[str] = field(default_factory=list, metadata={"help": "Who takes part."})

    flags = flags_of(OwnArguments)
    assert [(flags[name].default, flags[name].resume) for name in ("size", "names")] == [(3, TOLD), ([], TOLD)]
    assert flags["size"].ranks_agree and flags["seed"] == flags_of(TrainingArguments)["seed"]
    arguments, given = parse_arguments(OwnArguments, ["--size", "4", "--names", "a", "b"])
    assert (arguments.size, arguments.names, given) == (4, ["a", "b"], {"size", "names"})
    with pytest.raises(SystemExit):
        parse_arguments(OwnArguments, ["--help"])
    section = capsys.readouterr().out.split("this job's own:\n")[1].split("\n\n")[0]
    assert section.splitlines() == [
        "  --size N",
        "      (default: 3)",
        "  --names TEXT [TEXT ...]",
        "      Who takes part. (default: none)",
    ]


def test_jobs_are_of_one_mind_about_a_flag() -> None:
    """But for its default and help; few-shot learning, which trains no run, has other rules for resuming."""
    told: dict[str, tuple[str, Flag]] = {}
    for job, kind in JOBS.items():
        for name, flag in flags_of(kind).items():
            other, first = told.setdefault(name, (job, flag))
            assert (flag.kind, flag.ranks_agree) == (first.kind, first.ranks_agree), (name, job, other)
            if job != "few_shot":
                assert (flag.resume, flag.deepspeed, flag.choices) == (first.resume, first.deepspeed, first.choices), (
                    name,
                    job,
                    other,
                )


def test_what_is_declared_again_keeps_the_rest() -> None:
    @dataclass
    class First:
        size: int = argument(3, "A size.", Subject.DATA, typing.cast(Any, None), at_least(1), deepspeed="size")

    @dataclass
    class Second(First):
        size: int = redeclare(First, "size", 5, "Another size.")

    before, after = flags_of(First)["size"], flags_of(Second)["size"]
    assert (after.default, after.help) == (5, "Another size.") and Second().size == 5
    assert (after.allowed, after.deepspeed, after.subject) == (before.allowed, "size", before.subject)


def test_lists_are_not_shared() -> None:
    kind = JOBS["few_shot"]
    kind().k.append(16)
    assert kind().k == [4]


@pytest.mark.parametrize(
    ("bounds", "words", "inside", "outside"),
    [
        (at_least(1), "at least 1", [1, 2, 1e300], [0, -1, 0.999]),
        (Bounds(at_least=0, at_most=1), "a number from 0 to 1", [0, 0.5, 1], [-1e-9, 1 + 1e-9]),
        (Bounds(at_least=0, below=1), "at least 0 and below 1", [0, math.nextafter(1, 0)], [1, -0.1]),
        (Bounds(above=0, at_most=1), "more than 0 and at most 1", [1e-300, 1], [0, 1.1]),
        (Bounds(above=0, below=1), "more than 0 and below 1", [0.5], [0, 1]),
        (Bounds(at_least=1, besides=-1, meaning="all"), "at least 1, or -1 for all", [1, -1], [0, -2]),
    ],
)
def test_bounds(bounds: Bounds, words: str, inside: list[float], outside: list[float]) -> None:
    assert str(bounds) == words
    assert all(number in bounds for number in inside)
    assert not any(number in bounds for number in [*outside, math.nan, math.inf, -math.inf])


def edges(bounds: Bounds, is_int: bool) -> tuple[list[float], list[float]]:
    """Numbers just inside of the bounds, and just outside."""
    inside: list[float] = []
    outside: list[float] = []
    for bound, belongs, outwards in (
        (bounds.at_least, True, -1), (bounds.above, False, -1), (bounds.at_most, True, 1), (bounds.below, False, 1),
    ):  # fmt: skip
        if bound is not None:
            step = 1 if is_int else max(abs(bound), 1) * 1e-9
            inside.append(bound if belongs else bound - outwards * step)
            outside.append(bound + outwards * step if belongs else bound)
    if bounds.besides is not None:
        inside.append(bounds.besides)
    outside = [number for number in outside if number != bounds.besides]
    type_ = int if is_int else float
    return [type_(number) for number in inside], [type_(number) for number in outside] + ([] if is_int else [math.nan])


@each_job
def test_numbers_are_bounded_by_their_declarations(job: str, tmp_path: Path) -> None:
    """Told as flags, in a file, or by names."""
    kind = JOBS[job]
    bounded = {name: flag for name, flag in flags_of(kind).items() if isinstance(flag.allowed, Bounds)}
    assert len(bounded) > 15
    for name, flag in bounded.items():
        assert isinstance(flag.allowed, Bounds)
        inside, outside = edges(flag.allowed, inner_type(kind, name) is int)
        assert inside and outside
        is_list = isinstance(flag.default, list)
        for number in inside:
            assert getattr(parse_arguments(kind, {name: [number] if is_list else number})[0], name) in (
                [number],
                number,
            )
        for number in outside:
            value = [number] if is_list else number
            (tmp_path / "run.json").write_text(json.dumps({name: value}))
            sentence = f"--{name} is {value}, needed is {flag.allowed}{' each' if is_list else ''}"
            for told in ({name: value}, [str(tmp_path / "run.json")], [f"--{name}={number}"][: number == outside[0]]):
                if told:
                    with pytest.raises(UserError) as refusal:
                        parse_arguments(kind, told)
                    assert str(refusal.value) == sentence


@pytest.mark.parametrize("columns", [30, 80, 300])
@each_job
def test_help_shows_defaults_and_bounds_by_subject(
    job: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    kind = JOBS[job]
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        parse_arguments(kind, ["--help"])
    printed = capsys.readouterr().out
    names = [declared.name for declared in fields(kind)]
    longest = max(len(line) for line in printed.splitlines() if not line.startswith(("usage", "  --")))
    assert longest <= min(columns, 100) or " " not in max(printed.splitlines(), key=len).strip()
    parts = re.split(r"^(\S.*):$", printed, flags=re.MULTILINE)
    headings = [heading for heading in parts[1::2] if heading not in ("positional arguments", "options")]
    assert headings == [subject.value for subject in Subject if subject.value in headings]
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    for name, flag in flags_of(kind).items():
        entry = re.search(rf"^  --{name}( .*)?\n((?:      .*\n)+)", sections[flag.subject.value], re.MULTILINE)
        assert entry, name
        text = " ".join(entry[2].split())
        assert text.startswith(f"{flag.help} (default: ") and text.endswith(")"), text
        default = "none" if flag.default in (None, []) else flag.default
        shown = re.search(r"\(default: ([^;]*)(; .*)?\)$", text)
        assert shown, text
        if default == "none":
            assert shown[1] == flag.unset and shown[1]
        elif isinstance(default, bool):
            assert shown[1] == str(default).lower() and "true|false" in entry[1]
        else:
            assert shown[1] == (" ".join(map(str, default)) if isinstance(default, list) else str(default))
        if isinstance(flag.allowed, Bounds):
            assert shown[2] == f"; {flag.allowed}"
        if flag.choices:
            assert all(choice in entry[1] for choice in flag.choices)
        if default is True:
            assert f"  --no_{name}\n      The same as --{name} false.\n" in printed or columns < 80
    assert printed.count("\n  --") == len(names) + sum(flag.default is True for flag in flags_of(kind).values())
    assert "off with false" in " ".join(printed.split())


def test_help_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with pytest.raises(SystemExit):
        parse_arguments(JOBS["pretrain"], ["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
