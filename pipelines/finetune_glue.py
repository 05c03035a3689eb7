"""Fine-tune on a GLUE task, or on sentences or sentence pairs of one's own, as a pipeline.

    deepspeed --num_accelerators 2 pipelines/finetune_glue.py --model_name_or_path bert-base-uncased/ --task_name MRPC \
        --data_dir glue/MRPC --num_stages 2 --do_train --do_eval --output_dir runs/mrpc
    python pipelines/finetune_glue.py ds_configs/recipes/albert_base_v2_cola.json --output_dir runs/cola

Arguments come from flags, or from a JSON file with flags after it overriding; --help lists them.
"""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.training.finetune_arguments import GlueArguments
from ds_bert.training.start import begin


def main() -> int:
    """Run the job and return its exit status."""
    arguments, given = begin(GlueArguments)

    from ds_bert.tasks.glue import glue_task
    from ds_bert.training.finetuning import data_options, fine_tune, path_of, place
    from ds_bert.training.model_source import load_source

    source = load_source(arguments)
    arguments, settings, stage_map = place(arguments, given, source.fields, "sequence-classification")
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
    return fine_tune(task, arguments, source, stage_map, settings)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
