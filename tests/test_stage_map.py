"""Reading, refusing, making and writing stage maps."""

import json
from itertools import combinations, pairwise

import pytest

from ds_bert.errors import UserError
from ds_bert.files import shipped_configs
from ds_bert.stage_map import (
    StageMap,
    StageMapError,
    balanced_cuts,
    encoder_layers_per_module,
    load_stage_map,
    make_stage_map,
    parse_stage_map,
    require_ascending,
    to_json,
)

SIX_LAYERS = [0, 0, 0, 1, 1, 1]


def faults_of(data, num_layers=6, world_size=None):
    with pytest.raises(StageMapError) as error:
        parse_stage_map(data, "map.json", num_layers, world_size)
    assert str(error.value).startswith("map.json: ")
    assert all(fault in str(error.value) for fault in error.value.faults)
    return list(error.value.faults)


def the_fault_of(*args, **kwargs):
    faults = faults_of(*args, **kwargs)
    assert len(faults) == 1, faults
    return faults[0]


def a_map(modules=SIX_LAYERS, ranks=None, **more):
    return {"module_to_stage_map": modules, "stage_to_rank_map": ranks or {"0": [0, 1], "1": [2, 3]}, **more}


# --- a valid map


def test_any_permutation_of_ranks_is_honoured():
    stage_map = parse_stage_map(a_map(ranks={"1": [0, 3], "0": [2, 1]}), "map.json", 6, world_size=4)
    assert stage_map.stage_to_ranks == ((2, 1), (0, 3))
    assert (stage_map.num_stages, stage_map.num_replicas, stage_map.world_size, stage_map.num_layers) == (2, 2, 4, 6)
    assert [stage_map.position(rank) for rank in range(4)] == [(1, 0), (0, 1), (0, 0), (1, 1)]
    assert [stage_map.grid_rank(rank) for rank in range(4)] == [2, 1, 0, 3]
    assert [stage_map.launcher_rank(stage_map.grid_rank(rank)) for rank in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="rank 4 is not in the map"):
        stage_map.position(4)


def test_cuts_are_the_layer_bounds_of_ascending_stages():
    assert parse_stage_map(a_map([0, 1, 1, 1, 1, 1]), "", 6).cuts == (0, 1, 6)


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("stages", [1, 2, 5])
def test_default_warmup_is_pipedreams_formula(stages, replicas):
    stage_map = make_stage_map([1] * 6, stages, replicas)
    for stage, ranks in enumerate(stage_map.stage_to_ranks):
        ranks_before = sum(map(len, stage_map.stage_to_ranks[:stage]))
        assert stage_map.warmup(stage) == (stage_map.world_size - 1 - ranks_before) // len(ranks)


def test_depth_map_overrides_the_warmup_and_null_does_not():
    stage_map = parse_stage_map(a_map(stage_to_depth_map={"0": 3, "1": 2}), "", 6)
    assert [stage_map.warmup(0), stage_map.warmup(1)] == [3, 2]
    assert parse_stage_map(a_map(stage_to_depth_map=None), "", 6).warmup(0) == 1


# --- PipeDream's depth form


@pytest.mark.parametrize(("depth", "sizes"), [(2, (11, 13)), (4, (6,) * 4), (8, (3,) * 8)])
def test_bert24_is_cut_as_published(depth, sizes):
    assert encoder_layers_per_module(24, depth) == sizes
    modules = [*range(depth), depth - 1]
    stage_map = parse_stage_map(a_map(modules, {str(stage): [stage] for stage in range(depth)}), "", 26)
    expected = [stage for stage, size in enumerate(sizes) for _ in range(size)]
    assert stage_map.layer_to_stage == (0, *expected, depth - 1)


@pytest.mark.parametrize(("layers", "modules"), [(12, 5), (5, 2), (7, 7), (24, 7), (3, 1), (12, 2)])
def test_other_models_are_divided_as_evenly_as_can_be(layers, modules):
    sizes = encoder_layers_per_module(layers, modules)
    assert sum(sizes) == layers and len(sizes) == modules
    assert max(sizes) - min(sizes) == (1 if layers % modules else 0)


@pytest.mark.parametrize("length", range(2, 26))
def test_depth_form_may_run_on_one_stage(length):
    stage_map = parse_stage_map(a_map([0] * length, {"0": list(range(16))}), "", 26)
    assert stage_map == StageMap((0,) * 26, (tuple(range(16)),))


def test_one_entry_per_layer_wins_over_the_depth_form():
    # with L = 3, five entries could also be 4 modules and the criterion
    stage_map = parse_stage_map(a_map([0, 0, 0, 0, 1], {"0": [0], "1": [1]}), "", 5)
    assert stage_map.layer_to_stage == (0, 0, 0, 0, 1)


# --- faults

RANK_0 = 'stage_to_rank_map["0"]'
RANK_1 = 'stage_to_rank_map["1"]'
BAD_MAPS = [
    ([], "the top level is not an object, expected {"),
    (a_map(stages=2), 'unknown key "stages", expected only module_to_stage_map, '),
    ({"module_to_stage_map": SIX_LAYERS}, "stage_to_rank_map is missing"),
    ({"stage_to_rank_map": {"0": [0]}}, "module_to_stage_map is missing"),
    (a_map({"0": 0}), 'module_to_stage_map: found {"0": 0}, expected a list'),
    (a_map([0, 0, True, 1, 1, 1]), "module_to_stage_map[2]: found true, expected a stage, a whole number"),
    (a_map([0, 0, 0.0, 1, 1, 1]), "module_to_stage_map[2]: found 0.0, expected a stage"),
    (a_map([0, 0, "0", 1, 1, 1]), 'module_to_stage_map[2]: found "0", expected a stage'),
    (a_map([0, 0, None, 1, 1, 1]), "module_to_stage_map[2]: found null, expected a stage"),
    (a_map([0, 0, -1, 1, 1, 1]), "module_to_stage_map[2]: found -1, expected a stage"),
    (a_map([]), "module_to_stage_map has 0 entries, expected 6 (one for each layer: embeddings, 4 encoder"),
    (a_map([0], {"0": [0]}), "module_to_stage_map has 1 entries, expected 6"),
    (a_map([0] * 4 + [1] * 3), "or d + 1 (d modules and the criterion, d from 1 to 4)"),
    (a_map([0, 0, 1]), "module_to_stage_map[2]: found stage 1, expected 0: with fewer than 6 entries the last one is"),
    (a_map([0, 0, 0, 2, 2, 2], {"0": [0], "2": [1]}), "no layer is on stage 1, expected every stage from 0 to 2"),
    (a_map([3, 3, 3, 4, 4, 4], {"3": [0], "4": [1]}), "no layer is on stages 0 to 2, expected every stage"),
    (a_map([0, 0, 0, 2, 2, 2], {"0": [0], "1": [1], "2": [2]}), "no layer is on stage 1"),
    (a_map(ranks={"0": [0], "1": [1], "2": [2]}), 'stage_to_rank_map["2"]: no layer is on stage 2'),
    (a_map(ranks={"0": [0]}), "no ranks for stage 1, which module_to_stage_map[3] names"),
    (a_map(ranks=[[0], [1]]), "stage_to_rank_map: found [[0], [1]], expected an object"),
    (a_map(ranks={"0": [0], "01": [1]}), 'stage_to_rank_map: found the key "01", expected a stage'),
    (a_map(ranks={"0": [0], "x": [1]}), 'stage_to_rank_map: found the key "x", expected a stage'),
    (a_map(ranks={"0": [0], "-1": [1]}), 'stage_to_rank_map: found the key "-1", expected a stage'),
    (a_map(ranks={"0": 0, "1": [1]}), f"{RANK_0}: found 0, expected a list of ranks"),
    (a_map(ranks={"0": [], "1": [0]}), f"{RANK_0} is empty, expected at least one rank"),
    (a_map(ranks={"0": [0, 1], "1": [2, "3"]}), f'{RANK_1}[1]: found "3", expected a rank, a whole number'),
    (a_map(ranks={"0": [0, 1], "1": [2, 3.0]}), f"{RANK_1}[1]: found 3.0, expected a rank"),
    (a_map(ranks={"0": [False], "1": [1]}), f"{RANK_0}[0]: found false, expected a rank"),
    (a_map(ranks={"0": [0, 1], "1": [2, -3]}), f"{RANK_1}[1]: found -3, expected a rank"),
    (a_map(ranks={"0": [0, 1], "1": [2]}), "stage 1 has 1 and not 2 ranks, expected the same number for every stage"),
    (a_map(stage_to_depth_map=[1, 0]), "stage_to_depth_map: found [1, 0], expected an object"),
    (a_map(stage_to_depth_map={"0": 1}), "stage_to_depth_map: stage 1 is missing, expected every stage"),
    (a_map(stage_to_depth_map={"0": 1, "1": 0, "2": 0}), 'stage_to_depth_map["2"]: there is no stage 2'),
    (a_map(stage_to_depth_map={"0": 1, "1": -1}), 'stage_to_depth_map["1"]: found -1, expected a number of micro'),
    (a_map(stage_to_depth_map={"0": True, "1": 0}), 'stage_to_depth_map["0"]: found true, expected a number'),
    (a_map(stage_to_depth_map={"0": 1, "1.0": 0}), 'stage_to_depth_map: found the key "1.0", expected a stage'),
]


@pytest.mark.parametrize(("data", "message"), BAD_MAPS, ids=[message[:60] for _, message in BAD_MAPS])
def test_a_fault_is_named_once_with_its_place(data, message):
    assert message in the_fault_of(data)


def test_a_rank_named_twice_leaves_another_missing():
    assert faults_of(a_map(ranks={"0": [0, 1], "1": [1, 2]})) == [
        f"{RANK_1}[0]: rank 1 stands already in {RANK_0}[1], expected each rank once",
        "stage_to_rank_map: rank 3 missing, expected 0 to 3, as 4 are named",
    ]


def test_a_rank_beyond_the_world_leaves_others_missing():
    assert faults_of(a_map(ranks={"0": [0, 7], "1": [8, 3]})) == [
        f"{RANK_0}[1]: rank 7 is beyond the world, expected 0 to 3, as 4 are named",
        f"{RANK_1}[0]: rank 8 is beyond the world, expected 0 to 3, as 4 are named",
        "stage_to_rank_map: ranks 1 to 2 missing, expected 0 to 3, as 4 are named",
    ]


def test_world_size_names_both_numbers_and_how_to_start():
    fault = the_fault_of(a_map(), world_size=1)
    assert "names 4 ranks, but 1 process was started" in fault
    assert (
        "deepspeed --num_accelerators 4" in fault and "torchrun --nproc_per_node 4" in fault and "a map of 1" in fault
    )


def test_every_fault_stands_in_one_message():
    data = {
        "module_to_stage_map": [0, 0, 0, 2, 2, 2, 2],
        "stage_to_rank_map": {"0": [0, 0], "2": [9], "3": [2]},
        "stage_to_depth_map": {"0": "1"},
        "comment": "by hand",
    }
    expected = [
        'unknown key "comment"',
        "module_to_stage_map has 7 entries",
        "no layer is on stage 1",
        'stage_to_rank_map["3"]: no layer is on stage 3',
        f"{RANK_0}[1]: rank 0 stands already in",
        'stage_to_rank_map["2"][0]: rank 9 is beyond',
        "rank 1 missing",
        "rank 3 missing",
        "names 4 ranks, but 8 processes were started",
        "stage 0 has 2 and not 1 ranks",
        'stage_to_depth_map["0"]: found "1"',
        "stage_to_depth_map: stage 2 is missing",
    ]
    faults = faults_of(data, world_size=8)
    assert len(faults) == len(expected), faults
    assert all(part in fault for part, fault in zip(expected, faults, strict=True)), faults


def test_an_empty_list_or_a_huge_stage_ends_in_a_fault_and_not_in_an_error():
    assert faults_of({"module_to_stage_map": [10**12] * 6, "stage_to_rank_map": {}})
    assert faults_of({"module_to_stage_map": [], "stage_to_rank_map": {"0": []}, "stage_to_depth_map": {}})


# --- the order of stages


def test_stages_in_any_order_are_a_map_that_todays_schedules_refuse():
    stage_map = parse_stage_map(a_map([0, 1, 0, 1, 0, 1]), "map.json", 6)
    with pytest.raises(ValueError, match="do not ascend"):
        _ = stage_map.cuts
    with pytest.raises(StageMapError) as error:
        require_ascending(stage_map, "map.json")
    assert len(error.value.faults) == 2
    assert "module_to_stage_map[2]: all schedules need ascending stages, but " in str(error.value)
    assert "but encoder layer 1 is on stage 0 after encoder layer 0 on stage 1" in str(error.value)
    require_ascending(parse_stage_map(a_map(), "map.json", 6), "map.json")


def test_a_warmup_longer_than_the_stage_before_sends_is_refused():
    stage_map = parse_stage_map(a_map(stage_to_depth_map={"0": 0, "1": 1}), "map.json", 6)
    with pytest.raises(StageMapError, match=r'stage_to_depth_map\["1"\]: found 1, expected at most the 0 of stage 0'):
        require_ascending(stage_map, "map.json")


# --- files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'module_to_stage_map': [0, 0], 'stage_to_rank_map': {'0': [0]}}", "line 1, column 2.*single quote"),
        ('{"module_to_stage_map": [0, 0],}', "not JSON"),
        ('{"stage_to_rank_map": {"0": [0], "0": [1]}}', "the key '0' stands there twice"),
        ("[" * 100_000, "not JSON"),
        ("[" + "1" * 5000 + "]", "not JSON"),
    ],
)
def test_what_is_not_json_is_refused(tmp_path, text, message):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_stage_map(path, 6)


@pytest.mark.parametrize("depths", [None, (3, 2)])
def test_json_is_read_back_the_same(tmp_path, depths):
    stage_map = StageMap((0, 0, 0, 0, 1, 1), ((3, 0), (1, 2)), depths)
    path = tmp_path / "map.json"
    path.write_text(to_json(stage_map))
    assert '  "module_to_stage_map": [0, 0, 0, 0, 1, 1],\n' in to_json(stage_map)
    assert load_stage_map(path, 6, 4) == stage_map


def test_shipped_maps_have_the_shape_their_name_says():
    paths = sorted((shipped_configs() / "stage_maps").glob("bert*.json"))
    assert len(paths) >= 13
    for path in paths:
        model, _, shape = path.stem.rpartition("_")
        num_layers = {"bert24": 26, "bert_base": 14}[model]
        stages, replicas = map(int, shape.split("x"))
        stage_map = load_stage_map(path, num_layers, stages * replicas)
        require_ascending(stage_map, str(path))
        assert (stage_map.num_stages, stage_map.num_replicas) == (stages, replicas)
        modules = json.loads(path.read_text())["module_to_stage_map"]
        assert len(modules) == (14 if model == "bert_base" else max(stages, 2) + 1)


# --- balanced cuts


def stage_costs(costs, cuts):
    return sorted((sum(costs[begin:end]) for begin, end in pairwise(cuts)), reverse=True)


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("costs", [[0, 3, 3, 3, 3, 3, 4], [9, 1, 1, 1, 1, 1, 1], [5, 0, 2, 8, 1, 1, 3], [1] * 7])
def test_balanced_cuts_are_the_best_of_all_cuts(costs, stages):
    every = [(0, *inner, len(costs)) for inner in combinations(range(1, len(costs)), stages - 1)]
    assert balanced_cuts(costs, stages) == min(every, key=lambda cuts: (stage_costs(costs, cuts), cuts))


def test_ties_do_not_hang_on_the_rounding_of_sums():
    assert balanced_cuts([0.1] * 10, 4) == balanced_cuts([1] * 10, 4)


@pytest.mark.parametrize("stages", [0, 4])
def test_more_stages_than_layers_or_none_are_refused(stages):
    with pytest.raises(UserError, match=f"3 layers cannot be cut into {stages} stages, expected 1 to 3"):
        balanced_cuts([1, 1, 1], stages)


def test_a_made_map_places_neighbours_as_asked():
    assert make_stage_map([1, 1, 1], 3, 2).stage_to_ranks == ((0, 1), (2, 3), (4, 5))
    assert make_stage_map([1, 1, 1], 3, 2, "replica").stage_to_ranks == ((0, 3), (1, 4), (2, 5))
    with pytest.raises(UserError, match="0 replicas were asked for"):
        make_stage_map([1, 1, 1], 3, 0)
