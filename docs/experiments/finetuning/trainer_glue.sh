#!/bin/sh
# Run the Trainer baseline on four GLUE tasks and three seeds, one after the other.
#   MODEL=checkpoint/ GLUE=glue/ RESULTS=results/ sh docs/experiments/finetuning/trainer_glue.sh
# Results that are there already are kept. WAIT_FOR, a pattern of pgrep -f, makes each run wait until no such process is left.
set -eu
here=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" TOKENIZERS_PARALLELISM=false

run() {
    while [ -n "${WAIT_FOR:-}" ] && pgrep -f -- "$WAIT_FOR" > /dev/null; do sleep 30; done
    python "$here/trainer_glue.py" --model "$MODEL" --data_dir "$GLUE/$2" --task "$2" --seed "$1" --results_dir "$RESULTS" \
        --epochs 3 --learning_rate 5e-5 --batch_size 32 --max_seq_length 128 $3
}

for seed in 1 2 3; do
    run "$seed" MRPC ""
    run "$seed" CoLA ""
    run "$seed" STS-B ""
    run "$seed" SST-2 "--max_train_samples 5000"
done
