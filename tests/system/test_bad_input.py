"""Arguments, stage maps and DeepSpeed files that are wrong: one sentence, exit status 2, nothing touched."""

from typing import Any

import pytest

from tests.support.refusal import Job

Words = tuple[str, ...]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("learning_rate", "1e-4", ("learning_rate", "'1e-4'", "float")),
        ("max_steps", 10.7, ("max_steps", "10.7", "int")),
        ("max_steps", True, ("max_steps", "True", "int")),
        ("bf16", "false", ("bf16", "'false'", "bool")),
        ("bf16", 1, ("bf16", "bool")),
        ("output_dir", 5, ("output_dir", "5", "str")),
        ("train_path", ["data"], ("train_path", "list", "str")),
        ("seed", None, ("seed", "None", "int")),
        ("max_step", 5, ("unknown argument 'max_step'",)),
        ("optim", "adamax", ("optim", "adamax", "adamw, lamb, adam, sgd")),
        ("lr_scheduler_type", "Linear", ("lr_scheduler_type", "linear, cosine, constant")),
        ("learning_rate", float("nan"), ("--learning_rate is nan",)),
        ("weight_decay", float("inf"), ("--weight_decay is inf",)),
        ("num_train_epochs", -1, ("--num_train_epochs is -1",)),
    ],
)
def test_values_of_the_file(job: Job, key: str, value: Any, words: Words) -> None:
    job.arguments[key] = value
    sentence = job.refuse()
    assert all(word in sentence for word in words), sentence
    assert "run.json" in sentence or sentence.startswith("error: --")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{'max_steps': 5}", ("line 1, column 2", "single quote")),
        ('{"max_steps": 5,}', ("not JSON", "line 1")),
        ('{"seed": 1, "seed": 2}', ("'seed'", "twice")),
        ("[1, 2]", ("list", "object")),
        ("", ("not JSON",)),
        (b"\xff\xfe\x00", ("is UTF-16 text",)),
    ],
)
def test_files_that_hold_no_arguments(job: Job, text: str | bytes, words: Words) -> None:
    path = job.write("broken.json", text)
    sentence = job.refuse_command(path)
    assert path in sentence and all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--max_step 5", ("--max_step",)),
        ("--max_steps ten", ("--max_steps", "ten")),
        ("--max_steps 10.7", ("--max_steps", "10.7")),
        ("--max_steps", ("--max_steps", "expected one argument")),
        ("--bf16 maybe", ("--bf16", "maybe")),
        ("--optim adamax", ("--optim", "adamax", "sgd")),
        ("other.json", ("other.json",)),
        ("--max_steps 0", ("--max_steps is 0", "at least 1")),
        ("--max_steps -2", ("--max_steps is -2",)),
        ("--max_steps -1 --num_train_epochs 0", ("--num_train_epochs is 0",)),
        ("--per_device_train_batch_size 0", ("--per_device_train_batch_size is 0", "at least 1")),
        ("--per_device_eval_batch_size -4", ("--per_device_eval_batch_size is -4",)),
        ("--gradient_accumulation_steps 0", ("--gradient_accumulation_steps is 0",)),
        ("--num_minibatches -8", ("--num_minibatches is -8",)),
        ("--learning_rate=-1e-4", ("--learning_rate is -0.0001",)),
        ("--learning_rate nan", ("--learning_rate is nan",)),
        ("--max_grad_norm -1", ("--max_grad_norm is -1.0",)),
        ("--adam_beta1 1.0", ("--adam_beta1 is 1.0",)),
        ("--adam_beta2 -0.1", ("--adam_beta2 is -0.1",)),
        ("--adam_epsilon=-1e-8", ("--adam_epsilon is -1e-08",)),
        ("--warmup_ratio 1.5", ("--warmup_ratio is 1.5", "0 to 1")),
        ("--warmup_steps -1", ("--warmup_steps is -1",)),
        ("--logging_steps 0", ("--logging_steps is 0",)),
        ("--eval_steps -2", ("--eval_steps is -2",)),
        ("--save_steps -2", ("--save_steps is -2",)),
        ("--save_total_limit -1", ("--save_total_limit is -1",)),
        ("--ddp_timeout 0", ("--ddp_timeout is 0",)),
        ("--peak_tflops -1", ("--peak_tflops is -1",)),
        ("--tf32 perhaps", ("--tf32", "perhaps")),
        ("--profile_steps 2-1", ("--profile_steps is '2-1'", "as 10-12")),
        ("--profile_steps 2-3", ("--profile_steps is 2-3", "the training has 2 steps")),
        ("--heartbeat_timeout 0", ("--heartbeat_timeout is 0", "at least 1")),
        ("--heartbeat_timeout -30", ("--heartbeat_timeout is -30",)),
        ("--seed -1", ("--seed is -1",)),
        ("--max_seq_length 65", ("--max_seq_length is 65", "8 to 64", "bert.json")),
        ("--max_seq_length 1000000000", ("--max_seq_length is 1000000000",)),
        ("--max_seq_length 0", ("--max_seq_length is 0",)),
        ("--max_seq_length -5", ("--max_seq_length is -5",)),
        ("--max_predictions_per_seq 0", ("--max_predictions_per_seq is 0",)),
        ("--max_predictions_per_seq 33", ("--max_predictions_per_seq is 33", "1 to 32")),
        ("--mlm_probability 0", ("--mlm_probability is 0.0",)),
        ("--mlm_probability 1.2", ("--mlm_probability is 1.2",)),
        ("--mlm_probability nan", ("--mlm_probability is nan",)),
        ("--layerwise_lr_decay 1.5", ("--layerwise_lr_decay is 1.5",)),
        ("--num_stages 0", ("--num_stages is 0",)),
        ("--num_stages -1", ("--num_stages is -1",)),
        ("--bf16 --fp16", ("bf16 and fp16",)),
        ("--fp16", ("--fp16", "CUDA")),
        ("--config_name bert-gigantic", ("bert-gigantic", "bert-base-uncased")),
        ("--stage_map no_such_map", ("no_such_map", "bert_base_2x1")),
        ("--deepspeed_config no_such.json", ("no_such.json", "bf16_zero1")),
        ("--train_path nowhere", ("nowhere", "ds-bert prepare")),
        ("--train_path bert.json", ("bert.json", "ds-bert prepare")),
        ("--eval_path nowhere", ("nowhere", "ds-bert prepare")),
        ("--model_name_or_path nowhere", ("--config_name", "--model_name_or_path", "both")),
        ("--config_overrides hidden_sise=8", ("--config_overrides", "hidden_sise", "did you mean hidden_size")),
    ],
)
def test_flags(job: Job, flags: str, words: Words) -> None:
    sentence = job.refuse(*flags.split())
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize("name", ["train_path", "output_dir", "config_name"])
def test_a_missing_argument(job: Job, name: str) -> None:
    del job.arguments[name]
    assert f"--{name}" in job.refuse()


def test_a_missing_json_file(job: Job) -> None:
    assert job.refuse_command("nowhere.json") == "error: nowhere.json: no such file"


def test_nothing_at_all(job: Job) -> None:
    assert "--config_name" in job.refuse_command()


@pytest.mark.parametrize(("world", "stages"), [(1, 2), (4, 3), (3, 2)])
def test_processes_that_stages_do_not_divide(job: Job, world: int, stages: int) -> None:
    sentence = job.refuse("--num_stages", stages, world=world)
    assert f"--num_stages is {stages}" in sentence and f"{world} process" in sentence


def test_more_stages_than_layers(job: Job) -> None:
    sentence = job.refuse("--num_stages", 8, world=8)
    assert "6 layers" in sentence and "8 stages" in sentence


TWO = {"module_to_stage_map": [0, 0, 0, 1, 1, 1], "stage_to_rank_map": {"0": [0], "1": [1]}}


def ranks(**stages: Any) -> dict[str, Any]:
    return TWO | {"stage_to_rank_map": {name.removeprefix("s"): value for name, value in stages.items()}}


@pytest.mark.parametrize(
    ("stage_map", "words"),
    [
        (TWO | {"module_to_stage_map": [0] * 5 + [1] * 4}, ("9 entries", "6")),
        (TWO | {"module_to_stage_map": [0, 0, 0, 2, 2, 2]}, ("no layer is on stage 1",)),
        (TWO | {"module_to_stage_map": [0] * 6}, ("no layer is on stage 1",)),
        (TWO | {"module_to_stage_map": [0, 1, 0, 1, 1, 1]}, ("ascending", "encoder layer 1")),
        (TWO | {"module_to_stage_map": [0, 0, 0, 1, 1, -1]}, ("-1",)),
        (TWO | {"module_to_stage_map": [0, 0, 0, 1, 1, "1"]}, ("[5]", "1")),
        (TWO | {"module_to_stage_map": "0,0,0,1,1,1"}, ("module_to_stage_map", "list")),
        (TWO | {"module_to_stages_map": []}, ("unknown key", "module_to_stages_map")),
        ({"module_to_stage_map": TWO["module_to_stage_map"]}, ("stage_to_rank_map is missing",)),
        (ranks(s0=[0], s1=[2]), ("rank 2 is beyond the world", "rank 1 missing")),
        (ranks(s0=[0], s1=[0]), ("rank 0", "already")),
        (ranks(s0=[0], s1=[-1]), ("-1",)),
        (ranks(s0=[0, 1], s1=[2]), ("stage 1 has 1 and not 2 ranks",)),
        (ranks(s0=[0], s1=[]), ('"1"', "empty")),
        (ranks(s0=[0], s1=1), ('"1"', "list of ranks")),
        (ranks(s0=[0], s1=[1], s2=[2]), ("stage 2",)),
        ([0, 1], ("top level",)),
    ],
)
def test_stage_maps(job: Job, stage_map: Any, words: Words) -> None:
    path = job.write("map.json", stage_map)
    for sentence in (
        job.refuse("--stage_map", path, world=2),
        job.refuse_ds_bert("stage-map", "check", path, "--config_name", job.arguments["config_name"]),
    ):
        assert path in sentence and all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{'module_to_stage_map': [0]}", ("single quote",)),
        ('{"stage_to_rank_map": {"0": [0], "0": [1]}}', ("'0'", "twice")),
    ],
)
def test_stage_maps_that_are_not_json(job: Job, text: str, words: Words) -> None:
    path = job.write("map.json", text)
    sentence = job.refuse("--stage_map", path, world=2)
    assert path in sentence and all(word in sentence for word in words), sentence


@pytest.mark.parametrize("world", [1, 4])
def test_a_map_for_another_world(job: Job, world: int) -> None:
    path = job.write("map.json", TWO)
    sentence = job.refuse("--stage_map", path, world=world)
    assert path in sentence and "2" in sentence and f"{world}" in sentence and "process" in sentence


def test_a_map_and_another_number_of_stages(job: Job) -> None:
    path = job.write("map.json", TWO)
    assert "--num_stages is 1" in job.refuse("--stage_map", path, "--num_stages", 1, world=2)


@pytest.mark.parametrize(
    ("config", "flags", "words"),
    [
        ({"train_micro_batch_size_per_gpu": 4}, "--per_device_train_batch_size 8", ("4", "8")),
        ({"gradient_accumulation_steps": 4}, "--gradient_accumulation_steps 2", ("4", "2")),
        ({"gradient_clipping": 0.5}, "--max_grad_norm 1.0", ("0.5", "1.0")),
        ({"optimizer": {"params": {"lr": 1e-3}}}, "--learning_rate 1e-4", ("0.001", "0.0001")),
        ({"optimizer": {"params": {"betas": [0.9, 0.98]}}}, "--adam_beta2 0.999", ("0.98", "adam_beta2")),
        ({"optimizer": {"params": {"betas": [0.9]}}}, "", ("betas", "[0.9]")),
        ({"optimizer": {"params": {"eps": 1e-6}}}, "--adam_epsilon 1e-8", ("1e-06", "1e-08")),
        ({"optimizer": {"params": {"weight_decay": 0.1}}}, "--weight_decay 0", ("0.1", "--weight_decay")),
        ({"optimizer": {"type": "SGD"}}, "--optim adamw", ("SGD", "adamw")),
        ({"optimizer": {"type": "Lion"}}, "", ("Lion", "AdamW")),
        ({"bf16": {"enabled": False}}, "--bf16", ("bf16.enabled", "False", "True")),
        ({"fp16": {"enabled": True}}, "--bf16", ("bf16 and fp16",)),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "", ("bf16 and fp16",)),
        ({"fp16": {"enabled": True}}, "", ("--fp16", "CUDA")),
        ({"train_batch_size": 64}, "", ("train_batch_size is 64", "8 examples", "are 8")),
        ({"train_batch_size": "64"}, "", ("train_batch_size is '64'",)),
        ({"optimizer": {"params": {"lr": "1e-3"}}}, "", ("optimizer.params.lr", "'1e-3'", "float")),
        ({"gradient_clipping": True}, "", ("gradient_clipping", "True", "float")),
        ({"optimizer": {"type": "SGD", "params": {"momentum": "much"}}}, "", ("momentum", "'much'")),
        ({"fp16": {"enabled": False, "initial_scale_power": "16"}}, "", ("initial_scale_power", "'16'")),
        ({"fp16": {"loss_scale": -1}}, "", ("loss_scale", "-1")),
        ({"zero_optimization": {"stage": 2}}, "", ("stage is 2", "0 or 1")),
        ({"zero_optimization": {"stage": 3}}, "", ("stage is 3", "0 or 1")),
        ({"zero_optimization": {"stage": "1"}}, "", ("stage is '1'",)),
        ({"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}}, "", ("offload_optimizer",)),
        ({"scheduler": {"type": "WarmupLR"}}, "", ("scheduler", "--warmup_steps")),
        ({"pipeline": {"stages": 2}}, "", ("pipeline.stages", "not supported")),
        ({"optimizer": {"params": {"lr": -1.0}}}, "", ("optimizer.params.lr is -1.0", "at least 0")),
        ([], "", ("list", "object")),
    ],
)
def test_deepspeed_configs(job: Job, config: Any, flags: str, words: Words) -> None:
    path = job.write("ds.json", config)
    sentence = job.refuse("--deepspeed_config", path, *flags.split())
    assert all(word in sentence for word in words), sentence
    assert path in sentence or sentence.startswith("error: --")
