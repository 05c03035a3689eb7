"""Fine-tune on SQuAD v1.1 or v2.0, as a pipeline."""

from ds_bert.command_line import Told
from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs import begin
from ds_bert.training.job_arguments import SquadArguments


def main(told: Told | None = None) -> int:
    """Run the job as told, see `ds_bert.training.parser.parse_arguments`; return its exit status."""
    arguments, given = begin(SquadArguments, told)

    from ds_bert.tasks.squad.task import HEADS, SquadOptions, squad_task
    from ds_bert.training.finetuning import fine_tune, options_of
    from ds_bert.training.job import make_plan
    from ds_bert.training.starting_model import load_starting_model, resolve_model

    arguments = resolve_model(arguments)
    source = load_starting_model(arguments)
    plan = make_plan(arguments, given, source.fields, HEADS[arguments.head])
    task = squad_task(options_of(SquadOptions, plan.arguments), source.tokenizer)
    return fine_tune(task, plan, source)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
