"""Pre-train BERT as a pipeline: masked words and next sentences, on text from `ds-bert prepare`."""

from ds_bert.command_line import Told
from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs import begin
from ds_bert.training.job_arguments import PretrainArguments


def main(told: Told | None = None) -> int:
    """Run the job as told, see `ds_bert.training.parser.parse_arguments`; return its exit status."""
    arguments, given = begin(PretrainArguments, told)

    from ds_bert.training.job import make_plan, run_job
    from ds_bert.training.pretraining import PretrainJob, choose_objective, load_model
    from ds_bert.training.starting_model import resolve_model

    arguments = resolve_model(arguments)
    model = load_model(arguments)
    arguments = choose_objective(arguments, given, model)
    plan = make_plan(arguments, given, model, "pretraining", arguments.max_predictions_per_seq)
    return run_job(PretrainJob(plan, model))


if __name__ == "__main__":
    leave(exit_on_user_error(main))
