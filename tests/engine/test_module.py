from itertools import product

import pytest

from ds_bert.engine.module import StageModule, layer_seed
from ds_bert.engine.process_group import start_process_group
from ds_bert.modeling.families import FAMILIES
from ds_bert.modeling.model import model_layers
from ds_bert.stage_map import StageMap
from tests.support.processes import run_on_ranks
from tests.support.reference import reference_model
from tests.support.toy import toy_config, toy_map


def test_layer_seed_is_the_same_for_ever() -> None:
    """A resumed run, on any machine and version, draws the masks it would have drawn."""
    assert layer_seed(42, 0, 0, 0) == 4945949205331585457
    assert layer_seed(42, 1000, 7, 13) == 5479686578662611364


def test_layer_seed_depends_on_everything() -> None:
    seeds = {layer_seed(*numbers) for numbers in product(range(12), repeat=4)}
    assert len(seeds) == 12**4
    assert all(0 <= seed < 2**63 for seed in seeds)


def _names(stage_map: StageMap) -> tuple[list[str], bool]:
    grid = start_process_group(stage_map, timeout_seconds=30)
    module = StageModule(model_layers(toy_config(), "pretraining"), stage_map.cuts, grid, seed=0, recompute=False)
    tied = [value for name, _, _, value in module._local_parameters() if name == FAMILIES["bert"].word_embeddings]
    return list(module.parameters_by_name()), all(value is tied[0] for value in tied)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_stages_hold_all_parameters_once_but_the_tied_one(stages: int) -> None:
    by_stage = run_on_ranks(_names, stages, toy_map(stages, 1))
    names = [name for stage, _ in by_stage for name in stage]
    assert sorted(set(names)) == sorted(name for name, _ in reference_model(toy_config(), 0).named_parameters())
    assert len(names) == len(set(names)) + (stages > 1)
    assert all(one_tensor for _, one_tensor in by_stage)
