"""Train one model on many tasks, plainly or conditioned on each example's task (CA-MTL), as a pipeline.

    deepspeed --num_accelerators 2 pipelines/multitask.py --model_name_or_path bert-base-uncased/ --conditional base \
        --data_dir glue --num_stages 2 --do_train --do_eval --do_predict --num_train_epochs 5 --learning_rate 2e-5 \
        --seed 12 --use_mt_uncertainty --freeze_encoder_layers 0-5 --output_dir runs/camtl

Arguments come from flags, or from a JSON file with flags after it overriding; --help lists them.
"""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs.multitask import main

if __name__ == "__main__":
    leave(exit_on_user_error(main))
