"""What an unknown argument was meant to be: one of transformers', one of another job of ours, or a misspelt one."""

import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from ds_bert.command_line import load_named
from ds_bert.errors import did_you_mean, meant

# The jobs, and the dataclass of each one's arguments. Two belong to rooms above this one, so they are named only.
JOBS = {
    "pipelines/pretrain.py": "ds_bert.training.job_arguments:PretrainArguments",
    "pipelines/finetune_glue.py": "ds_bert.training.job_arguments:GlueArguments",
    "pipelines/finetune_squad.py": "ds_bert.training.job_arguments:SquadArguments",
    "pipelines/finetune_multiple_choice.py": "ds_bert.training.job_arguments:MultipleChoiceArguments",
    "pipelines/multitask.py": "ds_bert.multitask.arguments:MultitaskArguments",
    "pipelines/meta_train.py": "ds_bert.meta.arguments:MetaTrainArguments",
    "pipelines/few_shot.py": "ds_bert.meta.arguments:FewShotArguments",
}


@cache
def successors() -> dict[str, list[str]]:
    """Sentences on each name that others have; `successors.txt` says how it is written."""
    known: dict[str, list[str]] = {}
    sentences: list[str] = []
    for line in Path(__file__).with_name("successors.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            sentences.append(line.strip())
        elif line and not line.startswith("#"):
            if sentences:  # names begin a new entry; they may take several lines
                sentences = []
            known |= dict.fromkeys(line.split(), sentences)
    return known


# Values that transformers or DeepSpeed know: {argument: (what they look like, what to say)}
VALUES: dict[str, tuple[tuple[str, str], ...]] = {
    "optim": (
        ("adamw_(torch|torch_fused|torch_xla|torch_npu_fused|hf|apex_fused|anyprecision)|fused_?adamw?", "use adamw"),
        (".*(4bit|8bit|32bit).*", "moments have 32 bits here: use adamw with ZeRO 1, which shares them out"),
    ),
    "lr_scheduler_type": (
        ("constant_with_warmup|WarmupLR", "use constant, with --warmup_steps or --warmup_ratio"),
        ("polynomial|WarmupDecayLR", "use linear, which is the polynomial of power 1"),
        ("cosine_with_restarts|WarmupCosineLR", "use cosine, which is one cycle without restarts"),
    ),
    "schedule": (("pipedream[-_ ]?(2bw)?|double.buffer.*", "use 2bw"), ("dapple|pipedream[-_ ]?flush", "use 1f1b")),
    "warmup_steps": ((r"0?\.\d+(e-?\d+)?|\d+(\.\d+)?e-\d+", "a share of the steps is --warmup_ratio"),),
    "eval_steps": (("epoch", "-1 is after every epoch"), ("no|None", "0 is at the end only")),
    "save_steps": (("epoch", "-1 is after every epoch"), ("no|None", "0 is at the end only")),
    "save_total_limit": (("None", "0 keeps all"),),
}

_FEW = 4  # scripts that are named one by one


def explain(name: str, kind: type, spell: Callable[[str], str]) -> str:
    """Say what an unknown argument of a job was probably meant to be, in a few words; "" if that cannot be told.

    Args:
        name: as it was given: "evaluation_strategy", "max-step".
        kind: the dataclass of the job's arguments.
        spell: how an argument is written where this one stood, such as ``--max_steps``.
    """
    own = [field.name for field in fields(kind)]
    plain = name.strip().lower().replace("-", "_")
    if plain in own:
        return f"did you mean {spell(plain)}?"
    positive = plain.removeprefix("no_")
    if positive != plain and get_type_hints(kind).get(positive) in (bool, bool | None):
        return f"it is switched off by {spell(positive)} false"
    if sentence := _successor(plain, own):
        return _spelt(sentence, spell)
    if plain in successors() and not any(plain in names for _, names in _arguments_of_jobs(kind)):
        return f"this job has nothing like it{_elsewhere(plain, kind, spell)}"
    if others := [script for script, names in _arguments_of_jobs(kind) if plain in names]:
        return f"it is an argument of {_scripts(others)}"
    return _misspelt(plain, kind, own, spell)


def explain_value(name: str, value: Any, choices: Iterable[str] = ()) -> str:
    """Say what was probably meant by a value that the argument ``name`` does not take; "" if that cannot be told."""
    for pattern, sentence in VALUES.get(name, ()):
        if re.fullmatch(pattern, str(value), re.IGNORECASE):
            return sentence
    return did_you_mean(str(value), choices)


def named_arguments(sentence: str) -> set[str]:
    """The arguments that a sentence of the table names."""
    return set(re.findall(r"--(\w+)", re.sub("`[^`]*`", "", sentence)))


def _successor(name: str, own: Iterable[str]) -> str:
    """The first sentence of the table whose arguments the job has; "" if there is none."""
    fitting = (sentence for sentence in successors().get(name, ()) if named_arguments(sentence) <= set(own))
    return next(fitting, "")


def _elsewhere(name: str, kind: type, spell: Callable[[str], str]) -> str:
    """Where another job has a successor of the name: "; in pipelines/finetune_squad.py: use --version_2"."""
    found = [(script, _successor(name, names)) for script, names in _arguments_of_jobs(kind)]
    scripts = [script for script, sentence in found if sentence]
    if not 0 < len(scripts) <= _FEW:
        return ""
    sentence = next(sentence for _, sentence in found if sentence)
    return f"; in {_scripts(scripts)}: {_spelt(sentence, spell)}"


def _scripts(scripts: list[str]) -> str:
    return " and ".join(scripts) if len(scripts) <= _FEW else "other jobs"


def _misspelt(name: str, kind: type, own: list[str], spell: Callable[[str], str]) -> str:
    known = [*own, *(other for other in successors() if _successor(other, own))]
    names = meant(name, known)
    if names and names[0] in own:
        return f"did you mean {' or '.join(spell(near) for near in names if near in own)}?"
    if names:
        return f"did you mean {spell(names[0])}? {_spelt(_successor(names[0], own), spell)}"
    for script, arguments in _arguments_of_jobs(kind):
        if near := did_you_mean(name, arguments).removesuffix("?"):
            return f"{near}, an argument of {script}?"
    return ""


def _spelt(sentence: str, spell: Callable[[str], str]) -> str:
    """Write the arguments that a sentence names as they are written here; commands stay as they are."""
    parts = re.split("(`[^`]*`)", sentence)
    return "".join(
        part if part.startswith("`") else re.sub(r"--(\w+)", lambda found: spell(found[1]), part) for part in parts
    )


def jobs() -> dict[type, str]:
    """The script of each job by the dataclass of its arguments."""
    return {load_named(named): script for script, named in JOBS.items()}


def _arguments_of_jobs(but: type) -> list[tuple[str, list[str]]]:
    """(script, names of its arguments) of all other jobs."""
    return [(script, [field.name for field in fields(kind)]) for kind, script in jobs().items() if kind is not but]
