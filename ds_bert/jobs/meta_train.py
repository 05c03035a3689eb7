"""Meta-train on small classification tasks, self-made or supervised, as a pipeline."""

from ds_bert.command_line import Told
from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs import begin
from ds_bert.meta.arguments import MetaTrainArguments


def main(told: Told | None = None) -> int:
    """Run the job as told, see `ds_bert.training.parser.parse_arguments`; return its exit status."""
    arguments, given = begin(MetaTrainArguments, told)

    from ds_bert.meta.job import MetaTrainJob, plan_meta_training
    from ds_bert.meta.training_tasks import open_tasks
    from ds_bert.training.job import run_job
    from ds_bert.training.starting_model import load_starting_model, resolve_model

    arguments = resolve_model(arguments)
    source = load_starting_model(arguments)
    plan = plan_meta_training(arguments, given, source.fields)
    tasks, data = open_tasks(plan.arguments, source)
    return run_job(MetaTrainJob(plan, source, tasks, data))


if __name__ == "__main__":
    leave(exit_on_user_error(main))
