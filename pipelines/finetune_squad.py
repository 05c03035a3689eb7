"""Fine-tune on SQuAD v1.1 or v2.0, as a pipeline.

    deepspeed --num_accelerators 2 pipelines/finetune_squad.py --model_name_or_path bert-base-uncased/ --num_stages 2 \
        --train_file train-v1.1.json --predict_file dev-v1.1.json --do_train --do_eval --output_dir runs/squad
    python pipelines/finetune_squad.py ds_configs/recipes/albert_base_v2_squad2.json --output_dir runs/squad2

Arguments come from flags, or from a JSON file with flags after it overriding; --help lists them.
"""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs.finetune_squad import main

if __name__ == "__main__":
    leave(exit_on_user_error(main))
