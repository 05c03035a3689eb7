"""An exported folder gives in transformers what the pipeline gave, padding included."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForPreTraining, AutoTokenizer

from ds_bert.checkpoint.saving import describe_model
from ds_bert.checkpoint.tensors import TensorFolder
from ds_bert.checkpoint.training_state import save_checkpoint
from ds_bert.cli import main
from ds_bert.data.vocabulary import load_tokenizer
from ds_bert.engine.engine import Engine
from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.modeling.model import Carry
from ds_bert.stage_map import StageMap
from ds_bert.training.pretraining import PretrainingObjective, split_batch
from ds_bert.training.starting_model import build_engine
from tests.support.processes import run_on_ranks
from tests.support.text import VOCABULARY, prepare_data
from tests.support.toy import ROWS, global_batch, toy_config, toy_map
from tests.support.training import micro_batches

Logits = tuple[np.ndarray, np.ndarray]
BATCH = global_batch(step=9)


class _Recorder(PretrainingObjective):
    """An objective that keeps what the last layer returns."""

    def __init__(self) -> None:
        self.outputs: list[Carry] = []

    def forward(self, outputs: Carry, labels: Carry, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.outputs.append(outputs)
        return super().forward(outputs, labels, totals)


def _predict(engine: Engine) -> Logits | None:
    """The pipeline's logits for `BATCH` at all positions, as (B, T, V) and (B, 2); None but on the last stage."""
    grid, recorder = engine.grid, _Recorder()
    inputs, labels = split_batch(BATCH)
    labels["masked_positions"] = torch.arange(BATCH["input_ids"].size)
    labels["masked_words"] = inputs["input_ids"].flatten()
    shape = (*BATCH["input_ids"].shape, True)
    engine.execution.objective = recorder
    engine.evaluate([MicroBatch(0, shape, inputs if grid.is_first else None, labels if grid.is_last else None)])
    if not grid.is_last:
        return None
    words, pairs = recorder.outputs[0]["mlm_logits"], recorder.outputs[0]["nsp_logits"]
    return words.view(*BATCH["input_ids"].shape, -1).float().numpy(), pairs.float().numpy()


def _train_save_predict(stage_map: StageMap, settings: EngineSettings, data: Path, out: Path) -> Logits | None:
    config = toy_config(dropout=0.1, vocab_size=VOCABULARY)
    grid = start_process_group(stage_map, 30)
    count = ROWS // 2 // stage_map.num_replicas
    engine = build_engine(config, "pretraining", PretrainingObjective(), grid, settings, count)
    for step in range(4):
        engine.train_batch(micro_batches(engine.grid, global_batch(step), 2), 1e-2)
    save_checkpoint(out, engine, describe_model(config, load_tokenizer(data / "tokenizer")), {})
    return _predict(engine)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("stages", "replicas", "precision", "zero_stage"),
    [(1, 1, "fp32", 0), (2, 1, "fp32", 0), (2, 2, "fp32", 1), (4, 1, "fp32", 0), (2, 1, "bf16", 0), (1, 2, "bf16", 1)],
)
def test_transformers_gives_the_pipeline_s_logits(
    tmp_path: Path, data: Path, stages: int, replicas: int, precision: str, zero_stage: int
) -> None:
    stage_map = toy_map(stages, replicas, np.arange(stages * replicas)[::-1].reshape(stages, replicas).tolist())
    settings = EngineSettings(precision=precision, zero_stage=zero_stage)
    by_rank = run_on_ranks(_train_save_predict, stages * replicas, stage_map, settings, data, tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--output_dir", str(tmp_path / "exported")]) == 0

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model, report = AutoModelForPreTraining.from_pretrained(
        tmp_path / "exported", dtype=dtype, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    inputs = {name: torch.from_numpy(BATCH[name]) for name in ("input_ids", "token_type_ids")}
    with torch.no_grad():
        output = model.eval()(**inputs, attention_mask=torch.from_numpy(BATCH["attention_mask"]).long())
    found = [logits for logits in by_rank if logits is not None]
    assert len(found) == replicas
    for words, pairs in found:
        assert words.std() > 0.01
        np.testing.assert_allclose(output.prediction_logits.float(), words, rtol=0, atol=1e-6)
        np.testing.assert_allclose(output.seq_relationship_logits.float(), pairs, rtol=0, atol=1e-6)
    masters = TensorFolder(tmp_path / "exported")
    assert all(masters.read(name).dtype == torch.float32 for name in masters.names())


def test_the_tokenizer_encodes_alike(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "run"
    run_on_ranks(_train_save_predict, 1, toy_map(1, 1), EngineSettings(), data, out)
    assert main(["export", str(out / "checkpoint-4"), "--output_dir", str(tmp_path / "exported")]) == 0
    ours, theirs = load_tokenizer(data / "tokenizer"), AutoTokenizer.from_pretrained(tmp_path / "exported")
    sentences = [*(data.parent / "text.txt").read_text().splitlines()[:20], "Ünknown WORDS, 中文 and more!", ""]
    for sentence in sentences:
        ids = ours.encode([sentence])[0].tolist()
        assert theirs(sentence)["input_ids"] == [ours.cls_id, *ids, ours.sep_id]
    assert theirs("ab", "cd")["token_type_ids"][-1] == 1
    assert (theirs.pad_token_id, theirs.mask_token_id) == (ours.pad_id, ours.mask_id)
