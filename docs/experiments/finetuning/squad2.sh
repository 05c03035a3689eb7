#!/bin/sh
# SQuAD v2.0 with both heads on two stages: trained on a part of the training set and every second article of the
# development set, measured on the other articles.
#   MODEL=checkpoint/ SQUAD=squad/ RESULTS=results/ sh docs/experiments/finetuning/squad2.sh
set -eu
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
[ -f "$RESULTS/data/dev.json" ] || python "$(dirname "$0")/split_squad2.py" --train_file "$SQUAD/train-v2.0-part.json" \
    --dev_file "$SQUAD/dev-v2.0.json" --output_dir "$RESULTS/data"
for head in span beam; do
    [ -f "$RESULTS/$head/eval_results.json" ] || deepspeed -q --master_port "${PORT:-29872}" --num_accelerators 2 pipelines/finetune_squad.py \
        --model_name_or_path "$MODEL" --train_file "$RESULTS/data/train.json" --predict_file "$RESULTS/data/dev.json" \
        --version_2 --head $head --num_stages 2 --deepspeed_config bf16 --do_train --do_eval --resume --num_train_epochs 2 \
        --learning_rate 1e-4 --warmup_ratio 0.1 --per_device_train_batch_size 8 --gradient_accumulation_steps 4 \
        --per_device_eval_batch_size 16 --save_steps 200 --save_total_limit 1 --output_dir "$RESULTS/$head"
done
