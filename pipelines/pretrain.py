"""Pre-train BERT as a pipeline: masked words and next sentences, on text from `ds-bert prepare`.

    deepspeed --num_accelerators 2 pipelines/pretrain.py run.json --stage_map map.json --output_dir runs/wiki
    python pipelines/pretrain.py run.json                         # one process

Arguments come from flags, or from a JSON file with flags after it overriding; --help lists them.
"""

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs.pretrain import main

if __name__ == "__main__":
    leave(exit_on_user_error(main))
