"""How an argument of a job is declared: all that is known of a flag stands in the dataclass field that holds its value.

    learning_rate: float = argument(
        1e-4, "Peak learning rate.", OPTIMIZER, TOLD, at_least(0), deepspeed="optimizer.params.lr"
    )

The parser, `--help`, DeepSpeed's JSON, the comparison of ranks and that of a resumed run with its checkpoint read it.
"""

import math
from collections.abc import Collection
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from enum import Enum
from typing import Any

from ds_bert.errors import UserError


class Subject(Enum):
    """What a flag is about: the headings of `--help`, in their order."""

    MODEL = "model"
    DATA = "data"
    BATCH = "batch and length"
    OPTIMIZER = "optimizer"
    ADAPTATION = "adaptation to a task"
    PLACEMENT = "schedule and placement"
    PRECISION = "precision"
    OUTPUT = "output and checkpoints"
    EVALUATION = "evaluation"
    REPORT = "what it shows"
    LAUNCH = "launch"


class Resume(Enum):
    """What a resumed run may do with a flag."""

    SAME = "must have the value that the checkpoint was written with"
    TOLD = "may change it; that is said in the block before the first step"
    CONTENT = "may change it: what it leads to (the model, the data, another flag) is compared instead"
    FREE = "may change it: of no matter to the numbers"


MODEL, DATA, BATCH, OPTIMIZER, ADAPTATION, PLACEMENT, PRECISION, OUTPUT, EVALUATION, REPORT, LAUNCH = Subject
SAME, TOLD, CONTENT, FREE = Resume  # short, as every declaration has one of each


class Kind(Enum):
    """What a value is to the processes of a job."""

    VALUE = "itself: the same on all ranks"
    STEPS = "a step or a range of steps, as 10-12: the same on all ranks"
    DATA = "files or folders: they may lie elsewhere on another node, but must be there"
    NAMED = "files or folders, or a name that is shipped, built in or the hub's"
    FOLDER = "a folder that the job writes to"
    OWN = "a matter of each rank alone"

    @property
    def is_path(self) -> bool:
        """Whether it names a place in the file system, which may be another one on another node."""
        return self in (Kind.DATA, Kind.NAMED, Kind.FOLDER)


@dataclass(frozen=True)
class Bounds:
    """The numbers that a flag takes.

    Args:
        at_least, at_most: bounds that belong to them.
        above, below: bounds that do not.
        besides: a number outside of them that has a meaning of its own.
        meaning: what that one stands for.
    """

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    besides: float | None = None
    meaning: str = ""

    def __contains__(self, value: float) -> bool:
        return value == self.besides or (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"a number from {_spell(self.at_least)} to {_spell(self.at_most)}"
        named = {
            "at least": self.at_least,
            "more than": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        words = " and ".join(f"{word} {_spell(bound)}" for word, bound in named.items() if bound is not None)
        return words if self.besides is None else f"{words}, or {_spell(self.besides)} for {self.meaning}"


def _spell(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def at_least(lowest: float) -> Bounds:
    """All numbers from ``lowest`` on."""
    return Bounds(at_least=lowest)


@dataclass(frozen=True)
class Flag:
    """All that is known of a flag but its name and type, which are its field's.

    Args:
        default: where it is not given.
        help: what it is for, in sentences.
        subject: under which heading `--help` lists it.
        resume: what a resumed run may do with it.
        allowed: bounds of a number (of a list, of each), or the choices; None: all of its type. A registry's keys may
            become more while extensions are imported.
        kind: what its value is to the processes.
        deepspeed: where DeepSpeed's JSON says the same, as "optimizer.params.betas[0]"; "" for nowhere.
        unset: what no value, None or an empty list, stands for.
    """

    default: Any
    help: str
    subject: Subject
    resume: Resume
    allowed: Bounds | Collection[str] | None = None
    kind: Kind = Kind.VALUE
    deepspeed: str = ""
    unset: str = "none"

    @property
    def choices(self) -> Collection[str] | None:
        """The words to choose among; None where it is no choice."""
        return None if isinstance(self.allowed, Bounds) else self.allowed

    @property
    def ranks_agree(self) -> bool:
        """Whether all ranks must have been told the same."""
        return not self.kind.is_path and self.kind is not Kind.OWN

    def refusal(self, value: Any) -> str:
        """Say what is needed in the place of a number, or list of numbers, out of bounds; "" where none is."""
        bounds, numbers = self.allowed, value if isinstance(value, list) else [value]
        if not isinstance(bounds, Bounds) or all(number in bounds for number in numbers if number is not None):
            return ""
        return f"needed is {bounds}{' each' if isinstance(value, list) else ''}"


def argument(
    default: Any,
    help: str,
    subject: Subject,
    resume: Resume,
    allowed: Bounds | Collection[str] | None = None,
    kind: Kind = Kind.VALUE,
    deepspeed: str = "",
    unset: str = "none",
) -> Any:
    """Declare a dataclass field that is a flag; the arguments are those of `Flag`."""
    return _field(Flag(default, help, subject, resume, allowed, kind, deepspeed, unset))


def redeclare(
    kind: type, name: str, default: Any = MISSING, help: str = "", allowed: Bounds | None = None, unset: str = ""
) -> Any:
    """Declare a flag of the dataclass ``kind`` again, in a subclass, where something of it is another there.

    Args:
        kind: where it is declared.
        name: of the flag.
        default, help, allowed, unset: see `Flag`; as before where they are not given.
    """
    before = flags_of(kind)[name]
    return _field(
        replace(
            before,
            default=before.default if default is MISSING else default,
            help=help or before.help,
            allowed=allowed or before.allowed,
            unset=unset or before.unset,
        )
    )


def _field(flag: Flag) -> Any:
    if isinstance(flag.default, list):
        return field(default_factory=flag.default.copy, metadata={"flag": flag})
    return field(default=flag.default, metadata={"flag": flag})


def flag_of(declared: Field) -> Flag:
    """The flag that a field declares."""
    return declared.metadata["flag"]


def flags_of(kind: type) -> dict[str, Flag]:
    """The flags of a dataclass, by name, in the order of their fields."""
    return {declared.name: flag_of(declared) for declared in fields(kind)}


def check_bounds(kind: type, values: dict[str, Any]) -> None:
    """Refuse numbers out of their flags' bounds.

    Args:
        kind: a dataclass of flags.
        values: of some of them, of their types.

    Raises:
        UserError: the first such number.
    """
    for name, flag in flags_of(kind).items():
        if name in values and (needed := flag.refusal(values[name])):
            raise UserError(f"--{name} is {values[name]}, {needed}")
