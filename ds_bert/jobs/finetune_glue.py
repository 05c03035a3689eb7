"""Fine-tune on a GLUE task, or on sentences or sentence pairs of one's own, as a pipeline."""

from ds_bert.command_line import Told
from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs import begin
from ds_bert.training.job_arguments import GlueArguments


def main(told: Told | None = None) -> int:
    """Run the job as told, see `ds_bert.training.parser.parse_arguments`; return its exit status."""
    arguments, given = begin(GlueArguments, told)

    from ds_bert.tasks.glue.task import GlueOptions, glue_task
    from ds_bert.training.finetuning import fine_tune, kept_labels, options_of
    from ds_bert.training.job import make_plan
    from ds_bert.training.starting_model import load_starting_model, resolve_model

    arguments = resolve_model(arguments)
    source = load_starting_model(arguments)
    plan = make_plan(arguments, given, source.fields, "sequence-classification")
    labels = kept_labels(source, arguments.drop_classifier)
    task = glue_task(options_of(GlueOptions, plan.arguments), source.tokenizer, labels)
    return fine_tune(task, plan, source)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
