"""`ds-bert stage-map make --hostfile`: ranks placed for the nodes at hand."""

import json
from pathlib import Path

import pytest

from ds_bert.cli import main
from tests.support.refusal import the_sentence
from tests.support.text import write_model


def make(folder: Path, hosts: str, *flags: str) -> int:
    (folder / "hosts").write_text(hosts)
    model = write_model(folder / "bert.json", max_position_embeddings=512)
    words = ["stage-map", "make", "--config_name", str(model), "--stages", "2", "--hostfile", str(folder / "hosts")]
    return main([*words, *flags])


def test_heavy_gradients_keep_replicas_together(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert make(tmp_path, "a slots=3\nb slots=3\n", "--max_seq_length", "8") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["stage_to_rank_map"] == {"0": [0, 1, 2], "1": [3, 4, 5]}
    assert captured.err.startswith("link a – b: ")


def test_heavy_activations_keep_stages_together(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--max_seq_length", "512", "--per_device_train_batch_size", "32", "--gradient_accumulation_steps", "64"]
    assert make(tmp_path, "a slots=2\nb slots=2\n", *flags) == 0
    captured = capsys.readouterr()
    ranks = json.loads(captured.out)["stage_to_rank_map"]
    assert [sorted(pair) for pair in zip(*ranks.values(), strict=True)] == [[0, 1], [2, 3]]
    assert "activations and their gradients 0 B" in captured.err


def test_slots_that_do_not_divide_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert make(tmp_path, "a slots=2\n", "--replicas", "2") == 2
    assert "hosts: 2 slots are fewer than the 4 ranks of --stages 2 × --replicas 2" in capsys.readouterr().err
    status = make(tmp_path, "a slots=3\n")
    assert "is for 2 ranks, but" in the_sentence(status, capsys.readouterr().err)
