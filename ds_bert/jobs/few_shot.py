"""Fine-tune a meta-trained model on a few examples of each class, beside plain methods, as a pipeline."""

from ds_bert.command_line import Told
from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs import begin
from ds_bert.meta.arguments import FewShotArguments


def main(told: Told | None = None) -> int:
    """Run the job as told, see `ds_bert.training.parser.parse_arguments`; return its exit status."""
    arguments, given = begin(FewShotArguments, told)

    from ds_bert.meta.few_shot_data import open_few_shot
    from ds_bert.meta.few_shot_job import Model, few_shot, prepare_map
    from ds_bert.training.starting_model import resolve_model

    arguments = resolve_model(arguments, "checkpoint")
    model = Model(arguments)
    stage_map = prepare_map(arguments, given, model.fields)
    tasks = open_few_shot(arguments, model.tokenizer, model.fields)
    return few_shot(arguments, model, tasks, stage_map)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
