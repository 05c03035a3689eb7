"""Meta-train on small classification tasks, self-made or supervised, as a pipeline.

    deepspeed --num_accelerators 2 pipelines/meta_train.py --model_name_or_path bert-base-cased/ --num_stages 2 \
        --task_train_files data/smlmt --parameter_efficient --global_adapters --gradient_accumulation_steps 4 \
        --tasks_in_flight 4 --output_dir runs/meta

Arguments come from flags, or from a JSON file with flags after it overriding; --help lists them.
"""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.meta.arguments import MetaTrainArguments
from ds_bert.training.start import begin


def main() -> int:
    """Run the job and return its exit status."""
    arguments, given = begin(MetaTrainArguments)

    from ds_bert.meta.meta_training import meta_train, place
    from ds_bert.meta.sources import open_tasks
    from ds_bert.training.model_source import load_source

    source = load_source(arguments)  # type: ignore[arg-type]
    arguments, settings, stage_map = place(arguments, given, source.fields)
    tasks, data = open_tasks(arguments, source)
    return meta_train(arguments, source, stage_map, settings, tasks, data)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
