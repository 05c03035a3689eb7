"""The model and tokenizer that a fine-tuning job starts from, read and checked before any process waits for another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from ds_bert.checkpoint.folders import say_on_stderr
from ds_bert.checkpoint.hub import local_folder
from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.checkpoint.run_model import model_in, say_nothing
from ds_bert.data.labels import head_names
from ds_bert.data.vocabulary import Tokenizer, check_fits, load_tokenizer
from ds_bert.errors import UserError
from ds_bert.launcher import launcher_world
from ds_bert.modeling.config import load_model_config
from ds_bert.modeling.families import family_of
from ds_bert.modeling.model import build_config
from ds_bert.training.arguments import PretrainedModelArguments
from ds_bert.training.checks import check_at_most

Settled = TypeVar("Settled", bound=Any)

_CLASSIFIER = "classifier.weight"  # the last matrix of every head that tells labels apart
_OVERRIDES = ("hidden_dropout_prob", "attention_probs_dropout_prob")


@dataclass(frozen=True)
class Source:
    """What to start from.

    Args:
        fields: of the model's configuration.
        tokenizer: the model's.
        weights: None for a model from scratch.
    """

    fields: dict[str, Any]
    tokenizer: Tokenizer
    weights: PretrainedWeights | None

    @property
    def origin(self) -> str:
        """Where the weights come from, for people."""
        return f"weights of {self.weights.folder}" if self.weights else "fresh weights"

    def config_for(self, head_fields: Mapping[str, Any], head: str | Callable[[Any], Any]) -> Any:
        """Build the model's configuration with what a task's head adds to it."""
        return build_config({**self.fields, **head_fields}, head)

    def kept_labels(self, drop_classifier: bool) -> list[str] | None:
        """Names of the labels that a trained classifier tells apart, in the order of its rows.

        None where the job begins with a fresh one: the model has none, or ``drop_classifier`` says so.

        Raises:
            UserError: the configuration's names are not those of the classifier's rows, or contradict each other.
        """
        if self.weights is None or drop_classifier or _CLASSIFIER not in self.weights:
            return None
        return head_names(self.fields, self.weights.shape(_CLASSIFIER)[0], str(self.weights.folder / "config.json"))


def settle_model(arguments: Settled, name: str = "model_name_or_path") -> Settled:
    """Let a job that was told to start from a run's folder start from one of its checkpoints; rank 0 says from which.

    It is settled once, before anything is read: the run may go on meanwhile. What is kept of the arguments names it.

    Args:
        arguments: as parsed.
        name: of the argument.

    Raises:
        UserError: as `model_in` does.
    """
    folder = getattr(arguments, name)
    if not folder or not Path(folder).is_dir():
        return arguments
    say = say_on_stderr if launcher_world()[0] == 0 else say_nothing
    found = model_in(Path(folder), say)
    return arguments if found == Path(folder) else replace(arguments, **{name: str(found)})


def load_source(arguments: PretrainedModelArguments, may_be_conditional: bool = False) -> Source:
    """Read configuration, tokenizer and the names of weights.

    Args:
        arguments: as parsed.
        may_be_conditional: whether the job tells the model each example's task, as CA-MTL needs.

    Raises:
        UserError: none or two models were named, one cannot be read or is for another job, or tokenizer and model do
            not fit each other.
    """
    names = [name for name in (arguments.config_name, arguments.model_name_or_path) if name]
    if len(names) != 1:
        raise UserError(
            "needed is one of --model_name_or_path (from weights) and --config_name (from scratch), "
            f"found {'both' if names else 'neither'}"
        )
    folder = local_folder(arguments.model_name_or_path) if arguments.model_name_or_path else None
    fields = load_model_config(folder or names[0])
    if not may_be_conditional:
        refuse_conditional(fields, names[0])
    check_at_most(arguments, "max_seq_length", fields["max_position_embeddings"], f"the positions that {names[0]} has")
    _override(arguments, fields)
    tokenizer_name = arguments.tokenizer_name or folder
    if tokenizer_name is None:
        raise UserError("--tokenizer_name is missing; a model from scratch (--config_name) needs one")
    tokenizer = load_tokenizer(tokenizer_name)
    check_fits(tokenizer, fields["vocab_size"])
    if folder and arguments.tokenizer_name:
        _check_same_vocabulary(arguments.tokenizer_name, tokenizer, folder)
    weights = PretrainedWeights(folder, fields["model_type"]) if folder else None
    return Source(fields, tokenizer, weights)


def refuse_conditional(fields: Mapping[str, Any], name: str) -> None:
    """Refuse a model that needs to be told each example's task.

    Args:
        fields: of its configuration.
        name: what the user called it.

    Raises:
        UserError: it does.
    """
    kind = fields.get("conditional", "none")
    if kind != "none":
        raise UserError(
            f'{name}: its config.json has "conditional": {kind!r}, a model of many tasks (CA-MTL), which '
            "pipelines/multitask.py alone can run; needed here is a model without it"
        )


def _check_same_vocabulary(name: str, tokenizer: Tokenizer, folder: Path) -> None:
    """Refuse a tokenizer whose tokens have other ids than the tokenizer's in the model's folder, if there is one."""
    try:
        own = load_tokenizer(folder)
    except UserError:  # there is none, or none that can be read
        return
    pairs = enumerate(zip_longest(tokenizer.tokens, own.tokens))
    found = next(((token_id, given, known) for token_id, (given, known) in pairs if given != known), None)
    if found:
        token_id, given, known = found
        raise UserError(
            f"--tokenizer_name {name}: its vocabulary is not that of the model's own tokenizer in {folder} (token "
            f"{token_id} is {given!r} there, {known!r} in the model); leave --tokenizer_name out"
        )


def _override(arguments: PretrainedModelArguments, fields: dict[str, Any]) -> None:
    """Put dropout that was given into the model's configuration."""
    values = {name: getattr(arguments, name) for name in _OVERRIDES}
    values[family_of(fields).classifier_dropout_key] = arguments.classifier_dropout
    for name, value in values.items():
        if value is not None:
            fields[name] = value
