"""Every shipped recipe is one that its job takes, and trains as published."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ds_bert.files import shipped_configs
from ds_bert.training.finetune_arguments import (
    FinetuneArguments,
    GlueArguments,
    MultipleChoiceArguments,
    SquadArguments,
)
from ds_bert.training.parser import parse_arguments

RECIPES = sorted((shipped_configs() / "recipes").glob("*.json"))

# Peak learning rate, steps of warm-up, steps, global batch.
PUBLISHED = {
    "cola": (1e-5, 320, 5336, 16),
    "sst2": (1e-5, 1256, 20935, 32),
    "mrpc": (2e-5, 200, 800, 32),
    "stsb": (2e-5, 214, 3598, 16),
    "qqp": (5e-5, 1000, 14000, 128),
    "mnli": (3e-5, 1000, 10000, 128),
    "qnli": (1e-5, 1986, 33112, 32),
    "rte": (3e-5, 200, 800, 32),
    "wnli": (2e-5, 250, 2000, 16),
    "squad1": (5e-5, 365, 3649, 48),
    "squad2": (3e-5, 814, 8144, 48),
    "race": (1e-5, 1000, 12000, 32),
}


def parts(recipe: Path) -> tuple[str, str, int, int]:
    """Return the model, the task, the stages and the replicas that a recipe's name promises."""
    match = re.fullmatch(r"(albert_\w+_v2|bert_base)_([a-z]+\d?)(?:_pp(\d+))?(?:_dp(\d+))?", recipe.stem)
    assert match, recipe.name
    model, task, stages, replicas = match.groups()
    return model, task, int(stages or 1), int(replicas or 1)


def parsed(recipe: Path) -> FinetuneArguments:
    task = parts(recipe)[1]
    kind = SquadArguments if task.startswith("squad") else MultipleChoiceArguments if task == "race" else GlueArguments
    return parse_arguments(kind, [str(recipe)])[0]


def test_recipes_are_shipped_for_every_published_setting() -> None:
    names = {recipe.stem for recipe in RECIPES}
    assert {f"albert_base_v2_{task}" for task in PUBLISHED} <= names
    assert {f"albert_xxlarge_v2_{task}" for task in ("squad1", "squad2", "race")} <= names
    assert {"bert_base_squad", "bert_base_squad_pp2"} <= names


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_trains_as_published(recipe: Path) -> None:
    model, task, stages, replicas = parts(recipe)
    arguments = parsed(recipe)
    global_batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * replicas
    assert arguments.num_stages == stages
    assert arguments.gradient_accumulation_steps >= stages, "fewer micro-batches than stages leave stages idle"
    assert (arguments.do_train, arguments.do_eval, arguments.lr_scheduler_type) == (True, True, "linear")
    assert (arguments.optim, arguments.weight_decay, arguments.max_grad_norm) == ("adamw", 0.01, 1.0)
    if model == "bert_base":
        assert (arguments.learning_rate, arguments.num_train_epochs, global_batch) == (3e-5, 2.0, 12)
        return
    schedule = (arguments.learning_rate, arguments.warmup_steps, arguments.max_steps, global_batch)
    assert schedule == PUBLISHED[task]
    assert (arguments.adam_epsilon, arguments.adam_bias_correction) == (1e-6, False)
    assert arguments.hidden_dropout_prob == arguments.attention_probs_dropout_prob == 0.0
    assert arguments.classifier_dropout == 0.1


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_names_its_data_and_a_folder_of_its_own(recipe: Path) -> None:
    _, task, _, _ = parts(recipe)
    arguments = parsed(recipe)
    assert arguments.output_dir == f"runs/{recipe.stem}"
    if isinstance(arguments, SquadArguments):
        assert arguments.train_file and arguments.predict_file
        assert arguments.version_2 == (task == "squad2") == (arguments.head == "beam")
    elif isinstance(arguments, GlueArguments):
        assert arguments.task_name and arguments.task_name.lower().replace("-", "") == task
        assert arguments.data_dir == f"glue/{arguments.task_name}"
    else:
        assert isinstance(arguments, MultipleChoiceArguments)
        assert (arguments.task_name, arguments.data_dir) == ("RACE", "RACE")


def test_variants_differ_from_their_recipe_in_placement_only() -> None:
    placement = {"num_stages", "per_device_train_batch_size", "gradient_accumulation_steps", "output_dir"}

    def rest(recipe: Path) -> dict[str, Any]:
        return {key: value for key, value in json.loads(recipe.read_text()).items() if key not in placement}

    variants = [recipe for recipe in RECIPES if re.search(r"_(pp|dp)\d", recipe.stem)]
    assert variants
    for variant in variants:
        assert rest(variant) == rest(variant.with_stem(re.sub(r"(_(pp|dp)\d+)+$", "", variant.stem))), variant.name
