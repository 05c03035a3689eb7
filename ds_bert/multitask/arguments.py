"""The arguments of multi-task training, and what follows from them together."""

from dataclasses import dataclass, replace

from ds_bert.errors import UserError
from ds_bert.modeling.config import KINDS, LAST_LAYERS, MODULES
from ds_bert.multitask.sampling import FORMS
from ds_bert.multitask.sampling import KINDS as SAMPLINGS
from ds_bert.schedules import SCHEDULES
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.declaration import BATCH, CONTENT, DATA, MODEL, OPTIMIZER, SAME, Bounds, Kind, argument, redeclare
from ds_bert.training.job_arguments import FinetuneArguments

PUBLISHED = {"CA-MTL-base": ("base", "bert-base-uncased"), "CA-MTL-large": ("large", "bert-large-uncased")}


@dataclass
class MultitaskArguments(FinetuneArguments):
    """Train one model on many tasks, plainly or conditioned on each example's task (CA-MTL)."""

    tasks: list[str] = argument(
        [],
        "Names (GLUE's, SNLI, SciTail), or a file: one name a line, or JSON that declares tasks of one's own.",
        DATA,
        CONTENT,
        kind=Kind.NAMED,
        unset="GLUE's nine, or those of the checkpoint",
    )
    data_dir: str | None = argument(
        None,
        "Folder with a folder of the official files for each task.",
        DATA,
        CONTENT,
        kind=Kind.DATA,
        unset="the hub",
    )
    conditional: str = argument(
        "none",
        "CA-MTL's modules in the arrangement base or large; none: a plain encoder. Not given: as in the checkpoint.",
        MODEL,
        SAME,
        tuple(KINDS),
    )
    conditional_modules: list[str] = argument(
        [],
        f"Which of CA-MTL's modules to have: {', '.join(MODULES)}.",
        MODEL,
        SAME,
        unset="all, or those of the checkpoint",
    )
    conditional_last_layer: str = argument(
        "published",
        "What the last layer of --conditional base begins as: fresh weights, as in the published code, or pretrained "
        "ones. Of no matter to a trained model.",
        MODEL,
        SAME,
        LAST_LAYERS,
    )
    freeze_encoder_layers: str | None = argument(
        None,
        "0-N: leave encoder layers 0 to N and the embeddings as they are, but for their conditional modules.",
        OPTIMIZER,
        SAME,
    )
    task_sampling: str = argument(
        "sequential",
        "Examples of a step: of one task after the other, in proportion to the tasks' sizes, uniformly over tasks, or "
        "those that the model is most uncertain of.",
        BATCH,
        SAME,
        tuple(SAMPLINGS),
    )
    use_mt_uncertainty: bool = argument(False, "Short for --task_sampling uncertainty.", BATCH, CONTENT)
    uniform_mt_sampling: bool = argument(False, "Short for --task_sampling uniform.", BATCH, CONTENT)
    uncertainty_form: str = argument(
        "paper", "What uncertainty is: the paper's formula, or that of its code.", BATCH, SAME, tuple(FORMS)
    )
    percent_of_max_data_size: float = argument(
        1.0,
        "Use so many examples of a task at the most, as a share of the largest task's.",
        DATA,
        CONTENT,
        Bounds(above=0, at_most=1),
    )
    warmup_ratio: float = redeclare(TrainingArguments, "warmup_ratio", 0.1)


def spell_out(arguments: MultitaskArguments, given: set[str]) -> MultitaskArguments:
    """Put what short forms mean into the arguments they are short for.

    Raises:
        UserError: two of them contradict each other.
    """
    arguments = _published_model(arguments, given)
    unknown = [name for name in arguments.conditional_modules if name not in MODULES]
    if unknown:
        raise UserError(f"--conditional_modules names {unknown[0]!r}, needed are some of {', '.join(MODULES)}")
    short = {"uncertainty": arguments.use_mt_uncertainty, "uniform": arguments.uniform_mt_sampling}
    wanted = [sampling for sampling, is_wanted in short.items() if is_wanted]
    if "task_sampling" in given and arguments.task_sampling not in wanted:
        wanted.append(arguments.task_sampling)
    if len(wanted) > 1:
        raise UserError(
            f"the examples of a step are to be sampled in two ways, {' and '.join(wanted)}; needed is one of "
            "--use_mt_uncertainty, --uniform_mt_sampling and --task_sampling"
        )
    if "uncertainty" in wanted and SCHEDULES[arguments.schedule].never_drains:
        raise UserError(
            f"--use_mt_uncertainty cannot be combined with --schedule {arguments.schedule}: candidates are scored "
            f"between two steps, and {arguments.schedule} never comes to rest there; use 1f1b"
        )
    return replace(arguments, task_sampling=wanted[0] if wanted else arguments.task_sampling)


def _published_model(arguments: MultitaskArguments, given: set[str]) -> MultitaskArguments:
    """Read the published models' names as an arrangement on the BERT that they start from."""
    name = arguments.model_name_or_path
    if name not in PUBLISHED:
        return arguments
    kind, bert = PUBLISHED[name]
    if "conditional" in given and arguments.conditional != kind:
        raise UserError(f"--model_name_or_path {name} means --conditional {kind}, found {arguments.conditional}")
    given.add("conditional")
    return replace(arguments, model_name_or_path=bert, conditional=kind)
