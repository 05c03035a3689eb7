"""Fine-tune on multiple choice (RACE, DREAM, or JSON lines of one's own), as a pipeline.

    deepspeed --num_accelerators 2 pipelines/finetune_multiple_choice.py --model_name_or_path bert-base-uncased/ \
        --task_name RACE --data_dir RACE --num_stages 2 --do_train --do_eval --output_dir runs/race

Arguments come from flags, or from a JSON file with flags after it overriding; --help lists them.
"""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs.finetune_multiple_choice import main

if __name__ == "__main__":
    leave(exit_on_user_error(main))
