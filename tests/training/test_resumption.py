"""Every flag of every job, changed when a run is resumed: refused, said, or of no matter."""

import json
import typing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ds_bert.errors import UserError
from ds_bert.training.consistency import check_same_arguments
from ds_bert.training.declaration import Resume, flags_of
from ds_bert.training.job_arguments import PretrainArguments
from ds_bert.training.overview import describe_resumption
from ds_bert.training.unknown import jobs

JOBS = {Path(script).stem: kind for kind, script in jobs().items()}
each_job = pytest.mark.parametrize("job", JOBS)
# What a training's trajectory follows from and cannot change on its way.
REFUSED = {
    "seed", "max_seq_length", "optim", "adam_beta1", "adam_beta2", "adam_bias_correction", "momentum",
    "layerwise_lr_decay", "tf32", "mlm_probability", "max_predictions_per_seq", "whole_word_mask", "ngram_mask",
    "sentence_order", "length_window", "head", "conditional", "freeze_encoder_layers", "task_sampling",
    "uncertainty_form", "num_supervised_shards", "pretrain_task_weight", "data_sqrt_sampling", "train_batch_size",
    "meta_batchsz", "inner_epochs", "num_batches", "train_lr", "inner_max_grad_norm", "average_query_every",
    "stop_grad", "warp_layers", "min_layer_with_grad", "euclidean", "parameter_efficient", "conditional_modules",
    "conditional_last_layer",
}  # fmt: skip
# What it follows from and may change.
SAID = {
    "max_steps", "num_train_epochs", "per_device_train_batch_size", "learning_rate", "lr_scheduler_type",
    "warmup_steps", "warmup_ratio", "weight_decay", "adam_epsilon", "max_grad_norm", "schedule", "bf16", "fp16",
    "loss_scale", "loss_scale_window", "min_loss_scale", "metric_for_best_model", "early_stopping_patience",
}  # fmt: skip
# What changes the model, the data, the global batch or another flag, which are compared.
COMPARED_OTHERWISE = {
    "config_name", "config_overrides", "model_name_or_path", "tokenizer_name", "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout", "drop_classifier", "gradient_accumulation_steps", "deepspeed_config", "train_path",
    "max_train_samples", "seeds", "task_name", "data_dir", "dataset_name", "dataset_config_name", "train_file",
    "text_column", "text_pair_column", "label_column", "regression", "version_2", "doc_stride", "max_query_length",
    "max_qa_length", "high_only", "middle_only", "without_context", "tasks", "use_mt_uncertainty",
    "uniform_mt_sampling", "percent_of_max_data_size", "task_train_files", "supervised_train_files",
    "head_hidden_size", "encoding_size", "pooling", "adapter_hidden_size", "global_adapters",
}  # fmt: skip
SILENT = {
    "output_dir", "overwrite_output_dir", "resume", "stage_map", "num_stages", "transport", "trace", "trace_steps",
    "start_timeout", "ddp_timeout", "heartbeat_timeout", "local_rank", "extensions", "num_minibatches",
    "max_skipped_steps", "initial_scale_power", "gradient_checkpointing", "save_steps", "save_total_limit",
    "save_async", "per_device_eval_batch_size", "eval_steps", "logging_steps", "disable_tqdm", "profile_steps",
    "peak_tflops", "eval_path", "cache_dir", "overwrite_cache", "do_train", "do_eval", "do_predict",
    "max_eval_samples", "max_predict_samples", "validation_file", "test_file", "predict_file", "n_best_size",
    "max_answer_length", "start_n_top", "end_n_top", "null_score_diff_threshold", "tasks_in_flight",
    "recipe_defaults",
}  # fmt: skip
# Few-shot learning keeps results, each of which follows from all of these.
REFUSED_IN_FEW_SHOT = {
    "checkpoint", "support_file", "test_file", "task_dir", "max_test_samples", "max_seq_length", "epochs",
    "train_batch_size", "loss_threshold", "max_steps", "step_size_scale", "learning_rate", "head_learning_rate",
    "warmup_ratio", "max_grad_norm", "seed", "pooling", "lr_scheduler_type", "scale_by_classes",
}  # fmt: skip


def outcome(job: str, name: str) -> str:
    """What is to happen to a flag of a job."""
    if job == "few_shot":
        return "refused" if name in REFUSED_IN_FEW_SHOT else "silent"
    known = {"refused": REFUSED, "said": SAID, "compared otherwise": COMPARED_OTHERWISE, "silent": SILENT}
    (found,) = [what for what, names in known.items() if name in names]
    return found


def another(kind: type, name: str) -> Any:
    """A value that the flag takes, other than its default."""
    flag, hint = flags_of(kind)[name], typing.get_type_hints(kind)[name]
    types = {hint, *typing.get_args(hint)}
    candidates: list[Any] = [True, False] if bool in types else []
    candidates += [9, 1] if int in types else []
    candidates += [0.5, 0.25, 9.0] if float in types else []
    candidates += flag.choices or ["other"] if str in types else []
    if isinstance(flag.default, list):
        candidates = [[*flag.default, value] for value in candidates]
    return next(value for value in candidates if value != flag.default and not flag.refusal(value))


@each_job
def test_every_flag_changed_on_resume(job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = JOBS[job]
    before = kind()
    state = {"step": 500, "arguments": json.loads(json.dumps(asdict(before)))}
    monkeypatch.setattr("ds_bert.training.consistency.read_state", lambda *_: state)
    for name in flags_of(kind):
        now = replace(before, **{"output_dir": str(tmp_path), "resume": True, name: another(kind, name)})
        expected, value = outcome(job, name), getattr(now, name)
        assert value != getattr(before, name)
        if expected == "refused":
            with pytest.raises(UserError) as refusal:
                check_same_arguments(tmp_path, state["arguments"], now)
            old = getattr(before, name)
            advice = f"leave --{name} out" if old is None else f"go on with --{name} {str(old).lower()}"
            end = f"now {value}; {advice}, or begin anew in another --output_dir"
            assert str(refusal.value) == f"{tmp_path}: was written with --{name} {old}, {end}"
            continue
        check_same_arguments(tmp_path, state["arguments"], now)
        if job == "few_shot" or name == "num_minibatches":  # which resumes nothing
            continue
        said = describe_resumption(now, tmp_path)
        changed = [text for label, text in said if label == "changed"]
        if expected == "said":
            words = [str(part).lower() if part is None or part is True or part is False else str(part)
                     for part in (getattr(before, name), value)]  # fmt: skip
            assert changed == [f"--{name} {words[0]} → {words[1]}, from step 500 on"]
        else:
            assert said == [("resume", f"going on from {tmp_path}")], name
        assert [label for label, _ in describe_resumption(now, tmp_path, trains=False)] == ["resume"]


@each_job
def test_declarations_say_the_same(job: str) -> None:
    words = {
        Resume.SAME: "refused",
        Resume.TOLD: "said",
        Resume.CONTENT: "compared otherwise",
        Resume.FREE: "silent",
    }
    for name, flag in flags_of(JOBS[job]).items():
        assert words[flag.resume] == outcome(job, name), name


def test_no_flag_is_forgotten_or_gone() -> None:
    known = [name for names in (REFUSED, SAID, COMPARED_OTHERWISE, SILENT) for name in names]
    assert len(set(known)) == len(known)
    assert set(known) == {name for job, kind in JOBS.items() if job != "few_shot" for name in flags_of(kind)}
    assert set(flags_of(JOBS["few_shot"])) > REFUSED_IN_FEW_SHOT


def test_what_an_older_checkpoint_does_not_know_had_its_default(tmp_path: Path) -> None:
    check_same_arguments(tmp_path, {}, PretrainArguments())
    with pytest.raises(UserError, match=r"was written with --momentum 0.0, now 0.9"):
        check_same_arguments(tmp_path, {"seed": 42}, PretrainArguments(momentum=0.9))
