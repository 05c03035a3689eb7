#!/bin/sh
# Four GLUE tasks, several seeds each: ds_bert on two stages, and the Trainer baseline on one process of two threads, at
# the same settings.
#   MODEL=checkpoint/ GLUE=glue/ RESULTS=results/ sh docs/experiments/finetuning/glue.sh
# SEEDS="1 2 3 4 5 6" and TASKS="STS-B CoLA" ask for other seeds than 1, 2, 3, and for some of the tasks. What is done is
# kept; a seed of ds_bert that was interrupted goes on from its newest checkpoint.
set -eu
here=$(dirname "$0")
seeds=${SEEDS:-1 2 3}
export TOKENIZERS_PARALLELISM=false

run() {
    few=
    [ "$1" != SST-2 ] || few="--max_train_samples 5000"
    OMP_NUM_THREADS=1 deepspeed -q --master_port "${PORT:-29871}" --num_accelerators 2 \
        pipelines/finetune_glue.py --model_name_or_path "$MODEL" --task_name "$1" --data_dir "$GLUE/$1" --num_stages 2 \
        --deepspeed_config bf16 --do_train --do_eval --resume --num_train_epochs 3 --learning_rate 5e-5 --warmup_ratio 0.1 \
        --weight_decay 0.01 --max_seq_length 128 --per_device_train_batch_size 8 --gradient_accumulation_steps 4 \
        --per_device_eval_batch_size 16 --seeds $seeds --save_steps 200 --save_total_limit 1 --output_dir "$RESULTS/$1" $few
    for seed in $seeds; do
        OMP_NUM_THREADS=2 python "$here/trainer_glue.py" --model "$MODEL" --data_dir "$GLUE/$1" --task "$1" --seed "$seed" \
            --bf16 --epochs 3 --learning_rate 5e-5 --batch_size 32 --max_seq_length 128 --results_dir "$RESULTS" $few
    done
}

for task in ${TASKS:-MRPC STS-B SST-2 CoLA}; do
    run "$task"
done
