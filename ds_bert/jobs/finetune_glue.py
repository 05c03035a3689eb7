"""Fine-tune on a GLUE task, or on sentences or sentence pairs of one's own, as a pipeline."""

from typing import TYPE_CHECKING

from ds_bert.command_line import Told
from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs import begin
from ds_bert.training.job_arguments import GlueArguments

if TYPE_CHECKING:
    from ds_bert.training.model_source import Source


def main(told: Told | None = None) -> int:
    """Run the job as told, see `ds_bert.training.parser.parse_arguments`; return its exit status."""
    arguments, given = begin(GlueArguments, told)

    from ds_bert.tasks.glue.task import GlueOptions, glue_task
    from ds_bert.training.finetuning import fine_tune, options_of
    from ds_bert.training.job import make_plan
    from ds_bert.training.model_source import load_source, settle_model

    arguments = settle_model(arguments)
    source = load_source(arguments)
    plan = make_plan(arguments, given, source.fields, "sequence-classification")
    labels = None if arguments.drop_classifier else _labels_of_classifier(source)
    task = glue_task(options_of(GlueOptions, plan.arguments), source.tokenizer, labels)
    return fine_tune(task, plan, source)


def _labels_of_classifier(source: "Source") -> list[str] | None:
    """Names of the labels that a trained classifier tells apart, in the order of its rows; None where there is none.

    Raises:
        UserError: the configuration's names are not those of the classifier's rows, or contradict each other.
    """
    from ds_bert.data.labels import head_names

    weights, matrix = source.weights, "classifier.weight"
    if weights is None or matrix not in weights:
        return None
    return head_names(source.fields, weights.shape(matrix)[0], str(weights.folder / "config.json"))


if __name__ == "__main__":
    leave(exit_on_user_error(main))
