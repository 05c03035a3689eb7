#!/bin/sh
# Fine-tune on four GLUE tasks with three seeds each, on two stages, at the settings of trainer_glue.sh.
#   MODEL=checkpoint/ GLUE=glue/ RESULTS=results/ sh docs/experiments/finetuning/ds_bert_glue.sh
# Seeds that are done are kept; one that was interrupted goes on from its newest checkpoint.
set -eu
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

run() {
    [ -f "$RESULTS/$1/eval_results.json" ] || deepspeed -q --master_port "${PORT:-29871}" --num_accelerators 2 pipelines/finetune_glue.py \
        --model_name_or_path "$MODEL" --task_name "$1" --data_dir "$GLUE/$1" --num_stages 2 --do_train --do_eval --resume \
        --num_train_epochs 3 --learning_rate 5e-5 --warmup_ratio 0.1 --weight_decay 0.01 --max_seq_length 128 \
        --per_device_train_batch_size 8 --gradient_accumulation_steps 4 --per_device_eval_batch_size 16 --seeds 1 2 3 \
        --save_steps 200 --save_total_limit 1 --output_dir "$RESULTS/$1" $2
}

run MRPC ""
run CoLA ""
run STS-B ""
run SST-2 "--max_train_samples 5000"
