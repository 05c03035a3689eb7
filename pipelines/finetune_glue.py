"""Fine-tune on a GLUE task, or on sentences or sentence pairs of one's own, as a pipeline.

    deepspeed --num_accelerators 2 pipelines/finetune_glue.py --model_name_or_path bert-base-uncased/ --task_name MRPC \
        --data_dir glue/MRPC --num_stages 2 --do_train --do_eval --output_dir runs/mrpc
    python pipelines/finetune_glue.py ds_configs/recipes/albert_base_v2_cola.json --output_dir runs/cola

Arguments come from flags, or from a JSON file with flags after it overriding; --help lists them.
"""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs.finetune_glue import main

if __name__ == "__main__":
    leave(exit_on_user_error(main))
