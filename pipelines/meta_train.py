"""Meta-train on small classification tasks, self-made or supervised, as a pipeline.

    deepspeed --num_accelerators 2 pipelines/meta_train.py --model_name_or_path bert-base-cased/ --num_stages 2 \
        --task_train_files data/smlmt --parameter_efficient --global_adapters --gradient_accumulation_steps 4 \
        --tasks_in_flight 4 --output_dir runs/meta

Arguments come from flags, or from a JSON file with flags after it overriding; --help lists them.
"""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs.meta_train import main

if __name__ == "__main__":
    leave(exit_on_user_error(main))
