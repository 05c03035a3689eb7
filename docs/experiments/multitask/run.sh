#!/bin/sh
# Plain multi-task, CA-MTL-base in proportion, CA-MTL-base with MT-Uncertainty: eight GLUE tasks at 1,000 training examples
# each, 2 epochs, three seeds each, on two stages.
#   MODEL=checkpoint/ GLUE=glue/ RESULTS=results/ sh docs/experiments/multitask/run.sh
# Arrangements that are done are kept; one that was interrupted goes on from the newest checkpoint of its seed.
set -eu
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

run() {
    name=$1
    shift
    [ -f "$RESULTS/$name/eval_results.json" ] || deepspeed -q --master_port "${PORT:-29873}" --num_accelerators 2 pipelines/multitask.py \
        --model_name_or_path "$MODEL" --data_dir "$GLUE" --tasks CoLA MNLI RTE QQP STS-B SST-2 QNLI MRPC --num_stages 2 --deepspeed_config bf16 \
        --max_train_samples 1000 --max_eval_samples 1000 --do_train --do_eval --resume --num_train_epochs 2 --max_seq_length 128 \
        --learning_rate 1e-4 --warmup_ratio 0.1 --per_device_train_batch_size 8 --gradient_accumulation_steps 4 \
        --per_device_eval_batch_size 16 --seeds 1 2 3 --save_steps 100 --save_total_limit 1 --output_dir "$RESULTS/$name" "$@"
}

run plain --conditional none --task_sampling proportional
run ca-mtl --conditional base --task_sampling proportional
run ca-mtl-uncertainty --conditional base --use_mt_uncertainty
python "$(dirname "$0")/table.py" --results_dir "$RESULTS"
