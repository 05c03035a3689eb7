"""`ds-bert stage-map` from its command line."""

import json
import re
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from ds_bert.cli import main
from ds_bert.files import shipped_configs
from ds_bert.modeling.config import load_model_config
from ds_bert.modeling.costs import layer_costs
from ds_bert.stage_map import load_stage_map

MINI = ["--config_name", "bert-mini"]  # embeddings, 4 encoder layers, head
DS_BERT = Path(sys.executable).with_name("ds-bert")
GOOD = {"module_to_stage_map": [0, 0, 0, 1, 1, 1], "stage_to_rank_map": {"0": [0, 1], "1": [2, 3]}}


def stage_map(*words):
    return main(["stage-map", *map(str, words)])


def error_of(capsys, *words):
    """Run, and return the one sentence on stderr of a refusal."""
    assert stage_map(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("error:") == 1 and err.count("\n") == 1
    return err


def written(tmp_path, text):
    path = tmp_path / "map.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def test_what_make_prints_is_a_map_that_check_accepts(tmp_path, capsys):
    assert stage_map("make", "--config_name", "bert24", "--stages", 8, "--replicas", 8) == 0
    made = written(tmp_path, capsys.readouterr().out)
    assert stage_map("check", made, "--config_name", "bert24", "--world_size", 64) == 0
    out, err = capsys.readouterr()
    assert out == f"{made}: OK, 8 stages × 8 replicas = 64 ranks, 26 layers (one entry each)\n"
    assert err == ""


@pytest.mark.parametrize("shape", ["2x1", "2x2", "4x1", "1x2"])
def test_the_shipped_maps_of_bert_base_are_what_make_prints(shape, capsys):
    stages, replicas = shape.split("x")
    stage_map("make", "--config_name", "bert-base-uncased", "--stages", stages, "--replicas", replicas)
    assert capsys.readouterr().out == (shipped_configs() / "stage_maps" / f"bert_base_{shape}.json").read_text()


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        # the embeddings hold more than the rest, the head computes as much as one and a half encoder layers
        ("flops", [0, 0, 0, 0, 1, 1]),
        ("parameters", [0, 1, 1, 1, 1, 1]),
        ("layers", [0, 0, 0, 1, 1, 1]),
    ],
)
def test_balance_chooses_what_is_balanced(balance, expected, capsys):
    assert stage_map("make", *MINI, "--stages", 2, "--balance", balance) == 0
    assert json.loads(capsys.readouterr().out)["module_to_stage_map"] == expected


def test_placement_makes_the_stages_of_a_replica_neighbours(capsys):
    assert stage_map("make", *MINI, "--stages", 2, "--replicas", 2, "--placement", "replica") == 0
    assert json.loads(capsys.readouterr().out)["stage_to_rank_map"] == {"0": [0, 2], "1": [1, 3]}


def test_check_says_when_it_read_the_depth_form(capsys):
    assert stage_map("check", "bert24_2x8", "--config_name", "bert24") == 0
    assert (
        "2 stages × 8 replicas = 16 ranks, 26 layers (read as 2 modules and the criterion)" in capsys.readouterr().out
    )


BAD = {
    "single quotes": ("{'module_to_stage_map': [0, 0]}", "line 1, column 2: not JSON"),
    "a key twice": ('{"stage_to_rank_map": {"0": [0], "0": [1]}}', "stands there twice"),
    "no object": ("[]", "the top level is not an object"),
    "unknown key": (GOOD | {"stages": 2}, 'unknown key "stages"'),
    "missing key": ({"module_to_stage_map": [0] * 6}, "stage_to_rank_map is missing"),
    "wrong type": (GOOD | {"module_to_stage_map": [0, 0, 0, 1, 1, True]}, "found true, expected a stage"),
    "wrong length": (GOOD | {"module_to_stage_map": [0, 0, 0, 0, 1, 1, 1]}, "has 7 entries, expected 6"),
    "negative stage": (GOOD | {"module_to_stage_map": [0, 0, 0, 1, 1, -1]}, "found -1, expected a stage"),
    "gap": (GOOD | {"module_to_stage_map": [0, 0, 0, 2, 2, 2]}, "no layer is on stage 1"),
    "order": (GOOD | {"module_to_stage_map": [0, 1, 0, 1, 1, 1]}, "all schedules need ascending stages"),
    "stage key": (GOOD | {"stage_to_rank_map": {"0": [0], "01": [1]}}, 'found the key "01"'),
    "rank missing": (GOOD | {"stage_to_rank_map": {"0": [1], "1": [2]}}, "rank 0 missing"),
    "rank twice": (GOOD | {"stage_to_rank_map": {"0": [0], "1": [0]}}, "stands already in"),
    "rank beyond": (GOOD | {"stage_to_rank_map": {"0": [0], "1": [2]}}, "rank 2 is beyond the world"),
    "negative rank": (GOOD | {"stage_to_rank_map": {"0": [0], "1": [-1]}}, "found -1, expected a rank"),
    "unequal": (GOOD | {"stage_to_rank_map": {"0": [0, 1], "1": [2]}}, "each replica is one whole pipeline"),
    "no rank": (GOOD | {"stage_to_rank_map": {"0": [0], "1": []}}, "is empty, expected at least one rank"),
    "unused stage": (GOOD | {"stage_to_rank_map": {"0": [0], "1": [1], "2": [2]}}, "no layer is on stage 2"),
    "depth": (GOOD | {"stage_to_depth_map": {"0": 1}}, "stage_to_depth_map: stage 1 is missing"),
    "growing depth": (GOOD | {"stage_to_depth_map": {"0": 1, "1": 2}}, "found 2, expected at most the 1 of stage 0"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("action", ["check", "show"])
def test_a_bad_map_is_refused(action, content, message, tmp_path, capsys):
    path = written(tmp_path, content)
    error = error_of(capsys, action, path, *MINI)
    assert str(path) in error and message in error


def test_a_wrong_world_size_is_refused(tmp_path, capsys):
    error = error_of(capsys, "check", written(tmp_path, GOOD), *MINI, "--world_size", 2)
    assert "names 4 ranks, but 2 processes were started" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["make", *MINI, "--stages", 7], "6 layers cannot be cut into 7 stages"),
        (["make", *MINI, "--stages", 2, "--replicas", 0], "0 replicas were asked for"),
        (["make", *MINI, "--stages", 2, "--max_seq_length", 513], "has positions for 512 tokens"),
        (["make", *MINI, "--stages", 2, "--max_seq_length", 0], "--max_seq_length is 0, expected at least 1"),
        (["make", "--config_name", "bert-huge", "--stages", 2], "no shipped configuration of that name in models"),
        (["check", "no_such_map", *MINI], "no shipped configuration of that name in stage_maps"),
        (
            ["show", "bert_base_2x1", "--config_name", "bert-base-uncased", "--gradient_accumulation_steps", 0],
            "steps is",
        ),
    ],
)
def test_a_wrong_argument_is_refused(words, message, capsys):
    assert message in error_of(capsys, *words)


def test_show_prints_one_aligned_line_for_each_stage(capsys):
    words = ["bert24_2x8", "--config_name", "bert24", "--gradient_accumulation_steps", 4]
    assert stage_map("show", *words, "--per_device_train_batch_size", 32, "--zero_stage", 1, "--bf16") == 0
    lines = capsys.readouterr().out.splitlines()
    header, first, second = lines[1:4]
    assert re.split("  +", first)[1:3] == ["0", "embeddings, encoder layers 0–10"] and first.endswith("0–7")
    assert re.split("  +", second)[1:3] == ["1", "encoder layers 11–23, head"] and second.endswith("8–15")
    for name, width in [("parameters", 11), ("GFLOPs", 6), ("share", 5)]:
        end = header.index(name) + len(name)
        assert all(re.fullmatch(r"[\d.,%]+", line[end - width : end].strip()) for line in (first, second))
    assert "= 1/5 = 20.0%" in lines[-1]


def names_meant(words):
    """The layers' names that a stage's layers in words stand for."""
    names = []
    for part in re.sub(r"encoder layers? ", "#", words).split(", "):
        first, _, last = part.removeprefix("#").partition("–")
        is_encoder = first.isdecimal()
        names += (
            [f"encoder layer {layer}" for layer in range(int(first), int(last or first) + 1)] if is_encoder else [part]
        )
    return names


CUTS = [[0, *cut, 6] for count in range(6) for cut in combinations(range(1, 6), count)]


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_all_that_speaks_of_layers_means_the_same_ones(cuts, tmp_path, capsys):
    """The summary's cut (`StageMap.in_words`), `stage-map show`, what layers cost, and the map itself."""
    sizes = [end - begin for begin, end in pairwise(cuts)]
    owners = [stage for stage, size in enumerate(sizes) for _ in range(size)]
    ranks = {str(stage): [2 * stage + 1, 2 * stage] for stage in range(len(sizes))}
    path = written(tmp_path, {"module_to_stage_map": owners, "stage_to_rank_map": ranks})
    found = load_stage_map(path, 6)
    costs = [cost.name for cost in layer_costs(load_model_config("bert-mini"), 128, 20)]
    assert stage_map("show", path, *MINI) == 0
    rows = [re.split("  +", line.strip()) for line in capsys.readouterr().out.splitlines()[2 : 2 + len(sizes)]]
    for stage, (row, said) in enumerate(zip(rows, found.in_words().split(" | "), strict=True)):
        assert said == f"{row[1]} on ranks {2 * stage + 1}, {2 * stage}" and row[-1] == f"{2 * stage + 1}, {2 * stage}"
        assert names_meant(row[1]) == costs[cuts[stage] : cuts[stage + 1]]
    assert [name for row in rows for name in names_meant(row[1])] == costs


def test_show_adds_up(capsys):
    assert stage_map("show", "bert_base_4x1", "--config_name", "bert-base-uncased") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:6]]
    copied = 30522 * 768
    assert sum(int(row[-7].replace(",", "")) for row in rows) == 110_106_428 + copied
    for row in rows:
        state, activations, memory = map(float, row[-4:-1])
        assert memory == pytest.approx(state + activations, abs=0.011)


def test_the_installed_command_exits_with_2_and_one_sentence(tmp_path):
    path = written(tmp_path, GOOD | {"module_to_stage_map": [0, 0]})
    done = subprocess.run(
        [DS_BERT, "stage-map", "check", path, *MINI], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {path}: ") and done.stderr.count("\n") == 1
