"""Fine-tune on a GLUE task, or on sentences or sentence pairs of one's own, as a pipeline."""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.training.finetune_arguments import GlueArguments
from ds_bert.training.start import Told, begin


def main(told: Told | None = None) -> int:
    """Run the job as told, see `ds_bert.training.parser.parse_arguments`; return its exit status."""
    arguments, given = begin(GlueArguments, told)

    from ds_bert.tasks.glue import glue_task
    from ds_bert.training.finetuning import data_options, fine_tune, path_of
    from ds_bert.training.job import make_plan
    from ds_bert.training.model_source import load_source, settle_model

    arguments = settle_model(arguments)
    source = load_source(arguments)
    plan = make_plan(arguments, given, source.fields, "sequence-classification")
    arguments = plan.arguments
    task = glue_task(
        arguments.task_name,
        path_of(arguments.data_dir),
        source.tokenizer,
        train_file=path_of(arguments.train_file),
        validation_file=path_of(arguments.validation_file),
        test_file=path_of(arguments.test_file),
        dataset_name=arguments.dataset_name,
        dataset_config_name=arguments.dataset_config_name,
        text_column=arguments.text_column,
        text_pair_column=arguments.text_pair_column,
        label_column=arguments.label_column,
        label_names=source.kept_labels(arguments.drop_classifier),
        regression=arguments.regression,
        **data_options(arguments),
    )
    return fine_tune(task, plan, source)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
