"""Meta-train on small classification tasks, self-made or supervised, as a pipeline."""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.meta.arguments import MetaTrainArguments
from ds_bert.training.start import Told, begin


def main(told: Told | None = None) -> int:
    """Run the job as told, see `ds_bert.training.parser.parse_arguments`; return its exit status."""
    arguments, given = begin(MetaTrainArguments, told)

    from ds_bert.meta.meta_training import meta_train, place
    from ds_bert.meta.sources import open_tasks
    from ds_bert.training.model_source import load_source, settle_model

    arguments = settle_model(arguments)
    source = load_source(arguments)
    arguments, settings, stage_map = place(arguments, given, source.fields)
    tasks, data = open_tasks(arguments, source)
    return meta_train(arguments, source, stage_map, settings, tasks, data)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
