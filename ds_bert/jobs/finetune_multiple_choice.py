"""Fine-tune on multiple choice (RACE, DREAM, or JSON lines of one's own), as a pipeline."""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.training.finetune_arguments import MultipleChoiceArguments
from ds_bert.training.start import Told, begin


def main(told: Told | None = None) -> int:
    """Run the job as told, see `ds_bert.training.parser.parse_arguments`; return its exit status."""
    arguments, given = begin(MultipleChoiceArguments, told)

    from ds_bert.tasks.multiple_choice import multiple_choice_task
    from ds_bert.training.finetuning import data_options, fine_tune, path_of
    from ds_bert.training.job import make_plan
    from ds_bert.training.model_source import load_source, settle_model

    arguments = settle_model(arguments)
    source = load_source(arguments)
    plan = make_plan(arguments, given, source.fields, "multiple-choice")
    arguments = plan.arguments
    task = multiple_choice_task(
        arguments.task_name,
        path_of(arguments.data_dir),
        source.tokenizer,
        train_file=path_of(arguments.train_file),
        validation_file=path_of(arguments.validation_file),
        test_file=path_of(arguments.test_file),
        max_qa_length=arguments.max_qa_length,
        high_only=arguments.high_only,
        middle_only=arguments.middle_only,
        without_context=arguments.without_context,
        **data_options(arguments),
    )
    return fine_tune(task, plan, source)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
