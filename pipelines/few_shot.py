"""Fine-tune a meta-trained model on a few examples of each class, beside plain methods, as a pipeline.

    python pipelines/few_shot.py --checkpoint runs/meta/checkpoint-5000 --task_dir leopard/airline --k 4 8 16 \
        --output_dir runs/airline                                                   # all ten splits
    deepspeed --num_accelerators 2 pipelines/few_shot.py --checkpoint runs/meta/checkpoint-5000 --num_stages 2 \
        --support_file s.tf_record --test_file t.tf_record --num_labels 3 --k 4 --output_dir runs/one

Arguments come from flags, or from a JSON file with flags after it overriding; --help lists them.
"""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs.few_shot import main

if __name__ == "__main__":
    leave(exit_on_user_error(main))
