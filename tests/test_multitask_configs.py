"""CA-MTL's users find every flag again, and its recipes are ones that the job takes."""

import re
from pathlib import Path

import pytest

from ds_bert.files import shipped_configs
from ds_bert.multitask.arguments import MultitaskArguments, spell_out
from ds_bert.training.parser import parse_arguments

TABLE = Path(__file__).resolve().parents[1] / "docs" / "coming_from" / "ca_mtl.md"
RECIPES = sorted((shipped_configs() / "multitask").glob("*.json"))
# Their usage text, and the flags that only their prose names.
USAGE = """
model_name_or_path data_dir tasks overwrite_cache max_seq_length output_dir overwrite_output_dir do_train do_eval
do_predict evaluate_during_training per_device_train_batch_size per_device_eval_batch_size per_gpu_train_batch_size
per_gpu_eval_batch_size gradient_accumulation_steps learning_rate weight_decay adam_epsilon max_grad_norm
num_train_epochs max_steps warmup_steps logging_dir logging_first_step logging_steps save_steps save_total_limit no_cuda
seed fp16 fp16_opt_level local_rank tpu_num_cores tpu_metrics_debug use_mt_uncertainty uniform_mt_sampling
freeze_encoder_layers percent_of_max_data_size warmup_proportion
"""
THEIRS = re.findall(r"\w+", USAGE)


@pytest.mark.parametrize("flag", THEIRS)
def test_every_flag_works_or_has_a_successor(flag: str) -> None:
    rows = [line.split("|")[1:3] for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    named = [ours for theirs, ours in rows if re.search(rf"`--{flag}\b", theirs)]
    assert named, "is in no row of the table"
    if any("the same" in ours for ours in named):
        assert flag in MultitaskArguments.__dataclass_fields__
    else:
        assert all(re.search(r"`|none: |always", ours) for ours in named), "no successor, and no reason why"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_the_published_ones(path: Path) -> None:
    arguments, given = parse_arguments(MultitaskArguments, [str(path)])
    arguments = spell_out(arguments, given)
    size = "large" if "large" in path.stem else "base"
    assert (arguments.conditional, arguments.model_name_or_path) == (size, f"bert-{size}-uncased")
    elsewhere = spell_out(*parse_arguments(MultitaskArguments, [str(path), "--model_name_or_path", "x/"]))
    assert (elsewhere.conditional, elsewhere.model_name_or_path) == (size, "x/")
    assert arguments.freeze_encoder_layers == {"base": "0-5", "large": "0-11"}[size]
    assert arguments.task_sampling == "uncertainty" and arguments.tasks == []
    assert (arguments.num_train_epochs, arguments.learning_rate, arguments.seed) == (5, 2e-5, 12)
    assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 32
    assert arguments.max_seq_length == 128 and arguments.warmup_ratio == 0.1 and arguments.weight_decay == 0.0
