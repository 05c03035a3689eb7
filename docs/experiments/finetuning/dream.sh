#!/bin/sh
# DREAM on two stages: with the dialogue, without it, and from a small ALBERT that is pre-trained here first.
# MODEL is a checkpoint that can read already, such as the one squad1.sh ends with.
#   MODEL=squad1/ds_bert/checkpoint-630/ DREAM=dream/ TEXT=wikipedia_en.jsonl ALBERT=albert/30k-clean.model RESULTS=results/ \
#       sh docs/experiments/finetuning/dream.sh
set -eu
here=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
job() { deepspeed -q --master_port "${PORT:-29873}" --num_accelerators 2 "$@"; }

dream() {
    [ -f "$RESULTS/$1/test_results.json" ] || job pipelines/finetune_multiple_choice.py --model_name_or_path "$2" \
        --task_name DREAM --data_dir "$DREAM" --num_stages 2 --deepspeed_config bf16 --do_train --do_eval --do_predict --resume \
        --max_seq_length 256 --num_train_epochs 2 --learning_rate 3e-5 --warmup_ratio 0.1 --save_steps 200 --save_total_limit 1 \
        --per_device_train_batch_size 2 --gradient_accumulation_steps 4 --per_device_eval_batch_size 8 --output_dir "$RESULTS/$1" $3
}

dream with_dialogue "$MODEL" ""
dream without_dialogue "$MODEL" "--without_context"

[ -f "$RESULTS/albert_data/dataset.json" ] || ds-bert prepare --input "$TEXT" --tokenizer_name "$ALBERT" --validation_share 0.005 --output_dir "$RESULTS/albert_data"
[ -f "$RESULTS/albert_pretrained/summary.json" ] || job pipelines/pretrain.py "$here/albert_small_pretrain.json" --resume \
    --config_name "$here/albert_small.json" --train_path "$RESULTS/albert_data" --output_dir "$RESULTS/albert_pretrained"
dream albert "$(ls -d "$RESULTS"/albert_pretrained/checkpoint-* | tail -1)" "--learning_rate 1e-4"
