"""`--recipe_defaults` gives each job the defaults of the program that its user comes from."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ds_bert.files import shipped_configs
from ds_bert.training.parser import parse_arguments
from ds_bert.training.unknown import jobs

FILES = sorted((shipped_configs() / "recipe_defaults").glob("*.json"))
KINDS = {Path(script).stem: kind for kind, script in jobs().items()}
GOOGLE = {
    "adam_epsilon": 1e-6,
    "adam_bias_correction": False,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "linear_from_start",
    "save_total_limit": 5,
}
BERT_ADAM = {
    "adam_epsilon": 1e-6,
    "adam_bias_correction": False,
    "weight_decay": 0.01,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.1,
    "warmup_steps": 0,
    "per_device_train_batch_size": 32,
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "max_seq_length": 128,
    "seed": 42,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.1}
# The defaults that stand in the published scripts, whether or not they are this project's.
PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    ("pipedream", "pretrain"): {**BERT_ADAM, "learning_rate": 3e-5, "schedule": "2bw"},
    ("pipedream", "finetune_glue"): {**BERT_ADAM, "learning_rate": 5e-5, "per_device_eval_batch_size": 8},
    ("epl", "finetune_squad"): {
        **GOOGLE, "learning_rate": 5e-5, "warmup_ratio": 0.1, "num_train_epochs": 3.0, "max_seq_length": 384,
        "doc_stride": 128, "max_query_length": 64, "n_best_size": 20, "max_answer_length": 30, "save_steps": 1000,
        "per_device_eval_batch_size": 8, "version_2": False,
    },
    ("ca_mtl", "multitask"): {
        "learning_rate": 5e-5, "weight_decay": 0.0, "adam_epsilon": 1e-8, "adam_bias_correction": True,
        "max_grad_norm": 1.0, "num_train_epochs": 3.0, "max_steps": -1, "warmup_ratio": 0.1, "warmup_steps": 0,
        "logging_steps": 500, "save_steps": 500, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8,
        "seed": 42, "max_seq_length": 128, "lr_scheduler_type": "linear", "task_sampling": "proportional",
        "uncertainty_form": "code", "percent_of_max_data_size": 1.0, "conditional_last_layer": "published",
    },
    ("albert", "pretrain"): {
        **GOOGLE, "optim": "lamb", "learning_rate": 0.00176, "max_steps": 125000, "warmup_steps": 3125,
        "max_seq_length": 512, "max_predictions_per_seq": 20, "save_steps": 5000,
    },
    ("albert", "finetune_glue"): {
        **GOOGLE, **NO_DROPOUT, "optim": "adamw", "learning_rate": 5e-5, "max_steps": 1000, "warmup_steps": 0,
        "warmup_ratio": 0.0, "max_seq_length": 512, "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 8, "save_steps": 1000, "drop_classifier": False,
    },
    ("albert", "finetune_squad"): {
        **GOOGLE, "learning_rate": 5e-5, "num_train_epochs": 3.0, "max_steps": -1, "warmup_ratio": 0.1,
        "max_seq_length": 384, "doc_stride": 128, "max_query_length": 64, "n_best_size": 20, "max_answer_length": 30,
        "start_n_top": 5, "end_n_top": 5, "classifier_dropout": 0.1, "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 8, "save_steps": 1000,
    },
    ("albert", "finetune_multiple_choice"): {
        **GOOGLE, **NO_DROPOUT, "learning_rate": 1e-5, "max_steps": 12000, "warmup_steps": 1000, "warmup_ratio": 0.0,
        "max_seq_length": 512, "max_qa_length": 128, "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 8, "save_steps": 100, "high_only": False, "middle_only": False,
    },
    ("meta_adapters", "meta_train"): {
        "learning_rate": 1e-5, "train_lr": 1e-5, "adam_epsilon": 1e-6, "weight_decay": 0.01, "warmup_ratio": 0.1,
        "adam_bias_correction": True, "lr_scheduler_type": "linear_from_start", "train_batch_size": 90,
        "meta_batchsz": 80, "inner_epochs": 1, "average_query_every": 1, "warp_layers": True, "stop_grad": True,
        "min_layer_with_grad": 0, "euclidean": False, "parameter_efficient": False, "global_adapters": False,
        "num_supervised_shards": 0, "max_seq_length": 128, "save_steps": 10, "save_total_limit": 5,
        "logging_steps": 100, "num_train_epochs": 1.0, "inner_max_grad_norm": 1.0,
    },
    ("meta_adapters", "few_shot"): {
        "train_batch_size": 90, "per_device_eval_batch_size": 32, "loss_threshold": 5e-4, "warmup_ratio": 0.1,
        "lr_scheduler_type": "linear_from_start", "max_grad_norm": 1.0, "max_seq_length": 128, "step_size_scale": 1.0,
    },
}  # fmt: skip


def test_there_are_defaults_for_what_people_come_from() -> None:
    found = {(file.stem, job) for file in FILES for job in json.loads(file.read_text())}
    assert found == PUBLISHED.keys()


@pytest.mark.parametrize(("recipe", "job"), PUBLISHED)
def test_they_are_those_of_the_published_scripts(recipe: str, job: str) -> None:
    arguments, given = parse_arguments(KINDS[job], ["--recipe_defaults", recipe])
    assert {name: getattr(arguments, name) for name in PUBLISHED[recipe, job]} == PUBLISHED[recipe, job]
    assert given == {"recipe_defaults"}


TPU = "use_tpu tpu_name tpu_zone gcp_project master num_tpu_cores iterations_per_loop"
COMMON = f"""
    vocab_file output_dir init_checkpoint do_lower_case max_seq_length do_train do_predict train_batch_size
    learning_rate save_checkpoints_steps predict_batch_size {TPU}
"""
SQUAD = """
    train_file predict_file doc_stride max_query_length num_train_epochs warmup_proportion n_best_size
    max_answer_length
"""
# The flags of the published scripts.
SCRIPTS = {
    "albert": f"""
        {COMMON} {SQUAD} albert_config_file spm_model_file strategy_type num_gpu_cores optimizer data_dir task_name
        cached_dir do_eval eval_batch_size train_step warmup_step keep_checkpoint_max albert_dropout_prob
        discard_classifier_weights train_feature_file predict_feature_file predict_feature_left_file start_n_top
        end_n_top dropout_prob eval_feature_file max_qa_length num_keep_checkpoint high_only middle_only input_file
        max_predictions_per_seq num_train_steps num_warmup_steps
    """,
    "epl": f"""
        {COMMON} {SQUAD} bert_config_file version_2_with_negative null_score_diff_threshold verbose_logging
        num_pipe_stages num_micro_batch profiler gc zero amp
    """,
}


@pytest.mark.parametrize("recipe", SCRIPTS)
def test_every_flag_of_the_scripts_has_a_row(recipe: str) -> None:
    table = (Path(__file__).resolve().parents[1] / "docs" / "coming_from" / f"{recipe}.md").read_text()
    theirs = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| "))
    assert [flag for flag in SCRIPTS[recipe].split() if not re.search(rf"--{flag}\b", theirs)] == []
