"""Fine-tune on SQuAD v1.1 or v2.0, as a pipeline.

    deepspeed --num_accelerators 2 pipelines/finetune_squad.py --model_name_or_path bert-base-uncased/ --num_stages 2 \
        --train_file train-v1.1.json --predict_file dev-v1.1.json --do_train --do_eval --output_dir runs/squad
    python pipelines/finetune_squad.py ds_configs/recipes/albert_base_v2_squad2.json --output_dir runs/squad2

Arguments come from flags, or from a JSON file with flags after it overriding; --help lists them.
"""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.training.finetune_arguments import SquadArguments
from ds_bert.training.start import begin


def main() -> int:
    """Run the job and return its exit status."""
    arguments, given = begin(SquadArguments)

    from ds_bert.tasks.squad import HEADS, squad_task
    from ds_bert.training.finetuning import data_options, fine_tune, path_of, place
    from ds_bert.training.model_source import load_source

    source = load_source(arguments)
    arguments, settings, stage_map = place(arguments, given, source.fields, HEADS[arguments.head])
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
    return fine_tune(task, arguments, source, stage_map, settings)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
