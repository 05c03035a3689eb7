"""Unknown arguments and values are refused with their successor, or with what is spelt like them, in every job."""

import argparse
import importlib
import json
import random
import re
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from ds_bert.commands import COMMANDS
from ds_bert.errors import UserError
from ds_bert.training.declaration import flags_of
from ds_bert.training.parser import JobParser, parse_arguments
from ds_bert.training.unknown import JOBS, VALUES, _successor, explain, named_arguments, successors
from tests.test_docs import flags_of_command

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    Path(script).stem: getattr(importlib.import_module(place.partition(":")[0]), place.partition(":")[2])
    for script, place in JOBS.items()
}
FLAGS = "--{}".format
# The arguments of transformers' scripts, with their ..._no_trainer forms, in the versions from 3 to 5.
SCRIPTS = {
    "run_glue": "task_name dataset_name dataset_config_name max_seq_length overwrite_cache pad_to_max_length "
    "max_train_samples max_eval_samples max_predict_samples train_file validation_file test_file model_name_or_path "
    "config_name tokenizer_name cache_dir use_fast_tokenizer model_revision token use_auth_token trust_remote_code "
    "ignore_mismatched_sizes",
    "run_classification": "do_regression remove_splits train_split_name validation_split_name test_split_name "
    "remove_columns label_column_name text_column_names text_column_delimiter metric_name shuffle_train_dataset "
    "shuffle_seed max_seq_length",
    "run_qa": "dataset_name train_file validation_file test_file preprocessing_num_workers max_seq_length "
    "pad_to_max_length version_2_with_negative null_score_diff_threshold doc_stride n_best_size max_answer_length",
    "run_squad": "model_type data_dir train_file predict_file do_lower_case per_gpu_train_batch_size "
    "per_gpu_eval_batch_size evaluate_during_training verbose_logging lang_id eval_all_checkpoints no_cuda "
    "overwrite_output_dir fp16_opt_level server_ip server_port threads max_query_length",
    "run_swag": "train_file validation_file max_seq_length pad_to_max_length preprocessing_num_workers",
    "run_mlm": "train_file validation_file validation_split_percentage max_seq_length preprocessing_num_workers "
    "mlm_probability line_by_line pad_to_max_length streaming torch_dtype low_cpu_mem_usage "
    "model_type train_data_file eval_data_file mlm block_size whole_word_mask",
    "run_ner": "text_column_name label_column_name label_all_tokens return_entity_level_metrics task_name",
    "no_trainer": "max_length num_warmup_steps max_train_steps lr_scheduler_type checkpointing_steps with_tracking "
    "resume_from_checkpoint use_slow_tokenizer hub_model_id hub_token report_to gradient_accumulation_steps seed",
    "trainer_of_versions_3_and_4": "evaluation_strategy evaluate_during_training per_gpu_train_batch_size logging_dir "
    "per_gpu_eval_batch_size no_cuda use_mps_device use_ipex fp16_opt_level fp16_backend half_precision_backend "
    "tpu_num_cores tpu_metrics_debug past_index sharded_ddp group_by_length length_column_name adafactor "
    "push_to_hub_model_id push_to_hub_organization push_to_hub_token mp_parameters torchdynamo ray_scope "
    "dispatch_batches split_batches include_tokens_per_second include_inputs_for_metrics save_safetensors "
    "jit_mode_eval gradient_checkpointing_kwargs warmup_ratio overwrite_output_dir do_train do_eval do_predict",
    "bert": "bert_config_file vocab_file init_checkpoint do_lower_case train_batch_size eval_batch_size "
    "predict_batch_size num_train_steps num_warmup_steps warmup_proportion save_checkpoints_steps "
    "iterations_per_loop use_tpu tpu_name input_file masked_lm_prob do_whole_word_mask",
    "deepspeed": "train_batch_size train_micro_batch_size_per_gpu gradient_clipping deepspeed",
}
TRAINER = [field.name for field in fields(transformers.TrainingArguments)]


def own(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def refused(kind: type, *words: str) -> str:
    with pytest.raises(UserError) as error:
        parse_arguments(kind, words)
    return str(error.value)


def refused_in_file(kind: type, folder: Path, **values: Any) -> str:
    path = folder / "run.json"
    path.write_text(json.dumps(values))
    said = refused(kind, str(path))
    assert said.startswith(f"{path}: ")
    return said.removeprefix(f"{path}: ")


def test_the_jobs_are_those_in_pipelines() -> None:
    assert set(JOBS) == {f"pipelines/{path.name}" for path in (ROOT / "pipelines").glob("*.py")}
    for script, place in JOBS.items():
        assert re.search(rf"\b{place.partition(':')[2]}\b", (ROOT / "ds_bert" / "jobs" / Path(script).name).read_text())


@pytest.mark.parametrize("job", KINDS)
@pytest.mark.parametrize("source", ["TrainingArguments", *SCRIPTS])
def test_every_argument_of_transformers_is_taken_or_has_a_sentence(job: str, source: str) -> None:
    kind = KINDS[job]
    names = TRAINER if source == "TrainingArguments" else SCRIPTS[source].split()
    for name in set(names) - own(kind):
        elsewhere = any(name in own(other) for other in KINDS.values())
        assert _successor(name, own(kind)) or elsewhere or name in successors(), name
        assert explain(name, kind, FLAGS) and "did you mean" not in explain(name, kind, FLAGS), name


@pytest.mark.parametrize("job", KINDS)
def test_what_is_named_exists_in_the_job_that_is_told_it(job: str) -> None:
    kind = KINDS[job]
    for name in successors().keys() - own(kind):
        said = explain(name, kind, FLAGS)
        elsewhere = re.search(r"; in (\S+)(?: and \S+)*: .*", said)
        has = own(KINDS[Path(elsewhere[1]).stem]) if elsewhere else own(kind)
        assert said and named_arguments(said) <= has, (name, said)
        assert name not in named_arguments(said) and explain(name.replace("_", "-"), kind, FLAGS) == said
        assert "--" not in re.sub("`[^`]*`", "", explain(name, kind, "{!r}".format))


def test_every_sentence_is_told_to_some_job() -> None:
    for name, sentences in successors().items():
        told = {_successor(name, own(kind)) for kind in KINDS.values() if name not in own(kind)}
        unused = [sentence for sentence in sentences if sentence not in told]
        # an entry has several names, and some of them are arguments of the jobs that this sentence is for
        others = {other for other, entry in successors().items() if entry is sentences}
        for sentence in unused:
            assert any(
                _successor(other, own(kind)) == sentence
                for other, kind in product(others, KINDS.values())
                if other not in own(kind)
            ), (name, sentence)


def test_commands_in_sentences_exist() -> None:
    quoted = {
        command for sentences in successors().values() for text in sentences for command in re.findall("`(.*?)`", text)
    }
    ours = {command.split()[1]: re.findall(r"--\w+", command) for command in quoted if command.startswith("ds-bert ")}
    assert {"prepare", "export", "import"} <= set(ours) <= set(COMMANDS)
    assert all(set(flags) <= flags_of_command(command) for command, flags in ours.items())


@pytest.mark.parametrize(
    ("job", "name", "said"),
    [
        ("finetune_glue", "evaluation_strategy", "--eval_steps says when: every so many steps, -1 after every epoch"),
        ("few_shot", "eval_strategy", "this job has nothing like it"),
        ("finetune_squad", "version_2_with_negative", "use --version_2"),
        (
            "finetune_glue",
            "version_2_with_negative",
            "this job has nothing like it; in pipelines/finetune_squad.py: use --version_2",
        ),
        ("pretrain", "do_regression", "this job has nothing like it; in pipelines/finetune_glue.py: use --regression"),
        ("few_shot", "adam_epsilon", "it is an argument of other jobs"),
        ("finetune_glue", "version_2", "it is an argument of pipelines/finetune_squad.py"),
        ("multitask", "doc_stride", "it is an argument of pipelines/finetune_squad.py"),
        ("finetune_squad", "validation_file", "use --predict_file"),
        ("finetune_glue", "predict_file", "use --validation_file, with --test_file for what is to be predicted"),
        ("pretrain", "validation_file", "use --eval_path with a data folder of `ds-bert prepare`"),
        ("pretrain", "max_train_steps", "use --max_steps"),
        ("meta_train", "batch_size", "--gradient_accumulation_steps says how many tasks a step has"),
        ("few_shot", "per_device_train_batch_size", "use --train_batch_size"),
        ("few_shot", "model_name_or_path", "use --checkpoint"),
        ("multitask", "task_name", "use --tasks"),
        ("pretrain", "num_gpus", "it is the launcher's, and stands before the script"),
        ("pretrain", "use_cpu", "leave it out: with `DS_ACCELERATOR=cpu`"),
        ("finetune_glue", "do_lower_case", "leave it out: the tokenizer's own files say"),
        ("finetune_squad", "text_column", "it is an argument of pipelines/finetune_glue.py"),
        ("pretrain", "tasks", "it is an argument of pipelines/multitask.py"),
        ("multitask", "no_bf16", "it is switched off by --bf16 false"),
        ("pretrain", "label_colum", "did you mean label_column, an argument of pipelines/finetune_glue.py?"),
        (
            "finetune_glue",
            "data_loader_num_workers",
            "did you mean --dataloader_num_workers? leave it out: encoded data",
        ),
        ("finetune_glue", "warmup", "use --warmup_steps, or --warmup_ratio for a share of all steps"),
        ("pretrain", "frobnicate", ""),
    ],
)
def test_the_right_successor(job: str, name: str, said: str) -> None:
    found = explain(name, KINDS[job], FLAGS)
    assert found.startswith(said) and bool(found) == bool(said), found


def misspelt(name: str) -> set[str]:
    """What fingers make of a name: a letter less, a letter twice, two changed about, other separators, another case."""
    places = range(1, len(name) - 1)
    less = {name[:place] + name[place + 1 :] for place in places}
    twice = {name[:place] + name[place] + name[place:] for place in places}
    swapped = {name[:place] + name[place + 1] + name[place] + name[place + 2 :] for place in places}
    return {name[:-1], name + "s", name.replace("_", ""), name.upper(), *less, *twice, *swapped} - {name}


@pytest.mark.parametrize("job", KINDS)
def test_misspelt_arguments_are_told_the_right_spelling(job: str) -> None:
    kind = KINDS[job]
    for name in own(kind):
        wrong = sorted(misspelt(name) - own(kind) - successors().keys())
        for word in random.Random(name).sample(wrong, 5) if len(name) > 6 else ():
            assert f"--{name}" in explain(word, kind, FLAGS), (word, explain(word, kind, FLAGS))


@pytest.mark.parametrize("job", KINDS)
def test_flags_are_taken_with_hyphens_and_refused_in_one_sentence(job: str, tmp_path: Path) -> None:
    kind = KINDS[job]
    assert parse_arguments(kind, ["--output-dir", "x", "--ddp-timeout=7"])[1] == {"output_dir", "ddp_timeout"}
    said = refused(kind, "--output_dirr", "x", "--report-to=wandb", "--seed", "1", "--frobnicate")
    assert re.fullmatch(
        r"\S+: unknown arguments --output_dirr \(did you mean --output_dir\?\), --report-to \(leave it out: .*\), "
        r"--frobnicate; --help lists the arguments",
        said,
    ), said
    said = refused_in_file(kind, tmp_path, output_dirr="x", seed=1, report_to="wandb", frobnicate=1)
    assert re.fullmatch(
        r"unknown arguments 'output_dirr' \(did you mean 'output_dir'\?\), 'report_to' \(leave it out: .*\), "
        r"'frobnicate'; --help lists the arguments",
        said,
    ), said


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        *(("optim", value, "use adamw") for value in ("adamw_torch", "adamw_torch_fused", "adamw_hf", "FusedAdam")),
        *(("optim", value, "use adamw with ZeRO 1") for value in ("adamw_8bit", "paged_adamw_32bit", "lion_8bit")),
        ("optim", "AdamW", "did you mean adamw?"),
        ("lr_scheduler_type", "constant_with_warmup", "use constant, with --warmup_steps"),
        ("lr_scheduler_type", "polynomial", "use linear"),
        ("lr_scheduler_type", "cosine_with_restarts", "use cosine"),
        ("lr_scheduler_type", "liner", "did you mean linear?"),
        ("schedule", "1F1B", "did you mean 1f1b?"),
        ("schedule", "pipedream-2bw", "use 2bw"),
        ("eval_steps", "epoch", "-1 is after every epoch"),
        ("warmup_steps", 0.06, "a share of the steps is --warmup_ratio"),
        ("warmup_steps", 1e-3, "a share of the steps is --warmup_ratio"),
        ("save_total_limit", None, "0 keeps all"),
    ],
)
def test_values_that_others_know(tmp_path: Path, name: str, value: Any, hint: str) -> None:
    kind = KINDS["pretrain"]
    assert hint in refused_in_file(kind, tmp_path, **{name: value})
    if value is not None:
        said = refused(kind, f"--{name}", str(value))
        assert hint in said and f"argument --{name}" in said


def test_every_value_of_transformers_is_taken_or_refused_with_the_choices() -> None:
    kind = KINDS["pretrain"]
    for name, values in (("optim", OptimizerNames), ("lr_scheduler_type", SchedulerType)):
        choices = flags_of(kind)[name].choices
        for value in {it.value for it in values} - set(choices):
            said = refused(kind, f"--{name}", value)
            assert f"invalid choice: {value!r}, needed is one of {', '.join(choices)}" in said
            hinted = re.findall(r"use (\w+)|did you mean (\w+)", said)
            assert all((use or mean) in choices for use, mean in hinted)
    assert set(VALUES) <= own(kind)


@pytest.mark.parametrize("job", KINDS)
def test_a_negated_flag_says_what_it_does(job: str) -> None:
    actions = JobParser(KINDS[job])._actions
    negated = [action for action in actions if isinstance(action, argparse._StoreFalseAction)]
    assert {action.option_strings[0] for action in negated} == {
        f"--no_{field.name}" for field in fields(KINDS[job]) if field.default is True
    }
    helps = {action.option_strings[0]: action.help for action in actions if action.option_strings}
    for action in negated:
        assert action.help == f"The same as --{action.dest} false."
        assert helps[f"--{action.dest}"] != action.help
        assert getattr(parse_arguments(KINDS[job], [action.option_strings[0]])[0], action.dest) is False
        assert getattr(parse_arguments(KINDS[job], [f"--{action.dest}", "false"])[0], action.dest) is False
