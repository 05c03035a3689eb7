#!/bin/sh
# SQuAD v1.1 on the first 20,000 training questions: ds_bert on two stages, then the Trainer baseline at the same settings.
#   MODEL=checkpoint/ SQUAD=squad/ RESULTS=results/ sh docs/experiments/finetuning/squad1.sh
# ds_bert goes on from its newest checkpoint if it was interrupted; a result that is there is kept.
# Windows that share 128 tokens begin about 240 tokens apart: transformers counts the first, ds_bert the second.
set -eu
here=$(dirname "$0")
export TOKENIZERS_PARALLELISM=false

[ -f "$RESULTS/ds_bert/eval_results.json" ] || OMP_NUM_THREADS=1 deepspeed -q --master_port "${PORT:-29874}" --num_accelerators 2 \
    pipelines/finetune_squad.py --model_name_or_path "$MODEL" --train_file "$SQUAD/train-v1.1.json" --max_train_samples 20000 \
    --predict_file "$SQUAD/dev-v1.1.json" --num_stages 2 --deepspeed_config bf16 --do_train --do_eval --resume \
    --num_train_epochs 1 --learning_rate 1e-4 --warmup_ratio 0.1 --weight_decay 0.01 --max_seq_length 384 --doc_stride 240 \
    --per_device_train_batch_size 8 --gradient_accumulation_steps 4 --per_device_eval_batch_size 16 \
    --save_steps 200 --save_total_limit 1 --seed 1 --output_dir "$RESULTS/ds_bert"

OMP_NUM_THREADS=2 python "$here/trainer_squad.py" --model "$MODEL" --train_file "$SQUAD/train-v1.1.json" --max_train_samples 20000 \
    --eval_file "$SQUAD/dev-v1.1.json" --bf16 --epochs 1 --learning_rate 1e-4 --batch_size 32 --max_seq_length 384 \
    --doc_stride 128 --group_by_length --seed 1 --results_dir "$RESULTS"
