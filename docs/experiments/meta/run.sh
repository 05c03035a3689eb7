#!/bin/sh
# Meta-train adapters from a small sentence encoder on self-made and on GLUE's tasks, then measure 4-shot and 16-shot
# accuracy beside plain fine-tuning of the same encoder. Every piece can be interrupted and started again.
#
#   MODEL=minilm/ TEXT=wikipedia_en.jsonl GLUE=glue/ LEOPARD=leopard/json OUT=runs/meta sh docs/experiments/meta/run.sh
set -eu
: "${MODEL:?a Hugging Face folder}" "${TEXT:?text for self-made tasks}" "${GLUE:?}" "${LEOPARD:?}" "${OUT:?}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
job() { deepspeed -q --master_port "${PORT:-29875}" --num_accelerators 2 "$@"; }

[ -f "$OUT/smlmt/tasks.json" ] || ds-bert tasks --input "$TEXT" --tokenizer_name "$MODEL" --kind smlmt --ways 2 3 4 \
    --max_seq_length 40 --num_tasks 3000 --output_dir "$OUT/smlmt"

# 300 outer steps of 4 tasks of 90 examples
[ -d "$OUT/train/checkpoint-300" ] || job pipelines/meta_train.py ds_configs/meta/meta_adapters.json --num_stages 2 \
    --model_name_or_path "$MODEL" --pooling mean --task_train_files "$OUT/smlmt" --supervised_train_files \
    "$GLUE/MNLI" "$GLUE/QNLI" "$GLUE/RTE" "$GLUE/MRPC" "$GLUE/QQP" "$GLUE/SST-2" "$GLUE/CoLA" --pretrain_task_weight 0.5 \
    --max_seq_length 64 --num_batches 4 --gradient_accumulation_steps 4 --tasks_in_flight 4 --max_steps 300 \
    --learning_rate 2e-3 --train_lr 0.1 --save_steps 50 --resume --output_dir "$OUT/train"

few_shot() { # task, k, splits, name, checkpoint, options of the method
    task=$1 k=$2 splits=$3 name=$4 checkpoint=$5
    shift 5
    job pipelines/few_shot.py --num_stages 2 --checkpoint "$checkpoint" --task_dir "$LEOPARD/$task" --k "$k" \
        --splits "$splits" --max_seq_length 64 --max_steps 50 --max_test_samples 200 --train_batch_size 16 \
        --tasks_in_flight "$splits" --resume --output_dir "$OUT/$k-shot/$task/$name" "$@"
}

compare() { # task, k, splits
    few_shot "$@" meta "$OUT/train/checkpoint-300" --methods meta
    few_shot "$@" plain "$MODEL" --pooling mean --methods fine-tuning prototypes --learning_rate 3e-4
}

for task in airline disaster political_audience political_bias rating_books restaurant scitail sentiment_books; do
    compare "$task" 4 5
done
for task in airline scitail sentiment_books; do
    compare "$task" 16 3
done
python docs/experiments/meta/summary.py "$OUT"
