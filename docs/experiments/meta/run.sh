#!/bin/sh
# Meta-train adapters from a small sentence encoder, then 4-shot and 16-shot accuracy beside plain fine-tuning.
# Every piece can be interrupted and started again: it goes on where it was.
#
#   MODEL=minilm/ TASKS=data/smlmt LEOPARD=leopard/json OUT=runs/meta sh docs/experiments/meta/run.sh
set -eu
: "${MODEL:?a Hugging Face folder}" "${TASKS:?a folder of ds-bert tasks}" "${LEOPARD:?the tasks folder}" "${OUT:?}"
STEPS=${STEPS:-1000}         # outer steps of one task each replica's 90 examples; 4 tasks a step
MAX_TEST=${MAX_TEST:-300}    # test examples of each task
MAX_STEPS=${MAX_STEPS:-60}   # steps of each split
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

deepspeed --num_accelerators 2 pipelines/meta_train.py ds_configs/meta/meta_adapters.json --num_stages 2 \
    --model_name_or_path "$MODEL" --task_train_files "$TASKS" --gradient_accumulation_steps 4 --tasks_in_flight 4 \
    --max_steps "$((STEPS / 4))" --learning_rate 1e-4 --train_lr 1e-2 --save_steps 25 --save_total_limit 2 \
    --max_seq_length 128 --resume --output_dir "$OUT/train"
CHECKPOINT="$OUT/train/$(cat "$OUT/train/latest")"

few_shot() { # task k splits
    for kind in meta plain; do
        if [ "$kind" = meta ]; then set -- "$1" "$2" "$3" "$CHECKPOINT" meta
        else set -- "$1" "$2" "$3" "$MODEL" "fine-tuning head-only prototypes"; fi
        # shellcheck disable=SC2086
        deepspeed --num_accelerators 2 pipelines/few_shot.py --num_stages 2 --checkpoint "$4" --methods $5 \
            --task_dir "$LEOPARD/$1" --k "$2" --splits "$3" --max_steps "$MAX_STEPS" --max_test_samples "$MAX_TEST" \
            --train_batch_size 16 --tasks_in_flight "$3" --resume --output_dir "$OUT/$kind-$1-$2"
    done
}

for task in airline disaster political_audience political_bias political_message rating_books restaurant scitail \
    sentiment_books sentiment_dvd sentiment_kitchen; do
    few_shot "$task" 4 5
done
for task in airline scitail sentiment_books; do
    few_shot "$task" 16 3
done
python docs/experiments/meta/summary.py "$OUT"
