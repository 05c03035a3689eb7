"""Fine-tune on SQuAD v1.1 or v2.0, as a pipeline."""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.training.finetune_arguments import SquadArguments
from ds_bert.training.start import Told, begin


def main(told: Told | None = None) -> int:
    """Run the job as told, see `ds_bert.training.parser.parse_arguments`; return its exit status."""
    arguments, given = begin(SquadArguments, told)

    from ds_bert.tasks.squad import HEADS, squad_task
    from ds_bert.training.finetuning import data_options, fine_tune, path_of
    from ds_bert.training.job import make_plan
    from ds_bert.training.model_source import load_source, settle_model

    arguments = settle_model(arguments)
    source = load_source(arguments)
    plan = make_plan(arguments, given, source.fields, HEADS[arguments.head])
    arguments = plan.arguments
    task = squad_task(
        path_of(arguments.train_file),
        path_of(arguments.predict_file),
        path_of(arguments.test_file),
        tokenizer=source.tokenizer,
        version_2=arguments.version_2,
        head=arguments.head,
        doc_stride=arguments.doc_stride,
        max_query_length=arguments.max_query_length,
        n_best_size=arguments.n_best_size,
        max_answer_length=arguments.max_answer_length,
        start_n_top=arguments.start_n_top,
        end_n_top=arguments.end_n_top,
        null_score_threshold=arguments.null_score_diff_threshold,
        **data_options(arguments),
    )
    return fine_tune(task, plan, source)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
