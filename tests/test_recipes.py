"""Every shipped recipe is one that its job takes, and trains as published."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AlbertConfig, AlbertForMultipleChoice

from ds_bert.cli import main
from ds_bert.files import shipped_configs
from ds_bert.modeling.config import load_model_config
from ds_bert.modeling.model import build_config, model_layers
from ds_bert.training.job_arguments import (
    FinetuneArguments,
    GlueArguments,
    MultipleChoiceArguments,
    SquadArguments,
)
from ds_bert.training.parser import parse_arguments
from ds_bert.training.settings import total_steps

RECIPES = sorted((shipped_configs() / "recipes").glob("*.json"))

# Peak learning rate, steps of warm-up, steps, global batch, dropout in the encoder.
PUBLISHED = {
    "cola": (1e-5, 320, 5336, 16, 0.0),
    "sst2": (1e-5, 1256, 20935, 32, 0.0),
    "mrpc": (2e-5, 200, 800, 32, 0.0),
    "stsb": (2e-5, 214, 3598, 16, 0.0),
    "qqp": (5e-5, 1000, 14000, 128, 0.1),
    "mnli": (3e-5, 1000, 10000, 128, 0.0),
    "qnli": (1e-5, 1986, 33112, 32, 0.0),
    "rte": (3e-5, 200, 800, 32, 0.1),
    "wnli": (2e-5, 250, 2000, 16, 0.1),
    "race": (1e-5, 1000, 12000, 32, 0.0),
}
# Peak learning rate, questions, epochs, warm-up as a share of the steps, global batch, steps as published.
PUBLISHED_SQUAD = {
    "squad1": (5e-5, 87599, 2.0, 0.1, 48, 3649),
    "squad2": (3e-5, 130319, 3.0, 0.1, 48, 8144),
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
    assert {f"albert_base_v2_{task}" for task in (*PUBLISHED, *PUBLISHED_SQUAD)} <= names
    assert {f"albert_xxlarge_v2_{task}" for task in ("squad1", "squad2", "race")} <= names
    assert {"bert_base_squad", "bert_base_squad_pp2"} <= names


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_trains_as_published(recipe: Path) -> None:
    model, task, stages, replicas = parts(recipe)
    arguments = parsed(recipe)
    global_batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * replicas
    assert arguments.num_stages == stages
    assert arguments.gradient_accumulation_steps >= stages, "fewer micro-batches than stages leave stages idle"
    assert (arguments.do_train, arguments.do_eval, arguments.lr_scheduler_type) == (True, True, "linear_from_start")
    assert (arguments.optim, arguments.weight_decay, arguments.max_grad_norm) == ("adamw", 0.01, 1.0)
    if model == "bert_base":
        assert (arguments.learning_rate, arguments.num_train_epochs, global_batch) == (3e-5, 2.0, 12)
        assert (arguments.warmup_ratio, arguments.adam_epsilon) == (0.1, 1e-6)
        assert not arguments.adam_bias_correction, "BERT's own optimizer has none"
        return
    assert (arguments.adam_epsilon, arguments.adam_bias_correction) == (1e-6, False)
    dropout = 0.0
    if task in PUBLISHED_SQUAD:
        rate, questions, epochs, warmup, batch, steps = PUBLISHED_SQUAD[task]
        assert (arguments.learning_rate, arguments.warmup_ratio, global_batch) == (rate, warmup, batch)
        assert (arguments.num_train_epochs, arguments.max_steps) == (epochs, -1), "so that replicas share the work"
        assert abs(total_steps(arguments, questions / global_batch) - steps) <= 1
    else:
        *schedule, dropout = PUBLISHED[task]
        found = [arguments.learning_rate, arguments.warmup_steps, arguments.max_steps, global_batch]
        assert found == schedule
    assert arguments.hidden_dropout_prob == arguments.attention_probs_dropout_prob == dropout
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


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_trains_from_scratch_where_a_configuration_is_named(recipe: Path) -> None:
    kind = type(parsed(recipe))
    arguments, given = parse_arguments(kind, [str(recipe), "--config_name", "albert-base-v2"])
    assert (arguments.config_name, arguments.model_name_or_path) == ("albert-base-v2", None)
    assert "model_name_or_path" not in given and arguments.learning_rate == parsed(recipe).learning_rate


def test_variants_differ_from_their_recipe_in_placement_only() -> None:
    placement = {"num_stages", "per_device_train_batch_size", "gradient_accumulation_steps", "output_dir"}

    def rest(recipe: Path) -> dict[str, Any]:
        return {key: value for key, value in json.loads(recipe.read_text()).items() if key not in placement}

    variants = [recipe for recipe in RECIPES if re.search(r"_(pp|dp)\d", recipe.stem)]
    assert variants
    for variant in variants:
        assert rest(variant) == rest(variant.with_stem(re.sub(r"(_(pp|dp)\d+)+$", "", variant.stem))), variant.name


def test_the_largest_model_can_be_built_and_cut_as_its_recipes_ask(capsys: pytest.CaptureFixture[str]) -> None:
    stages = max(parts(recipe)[2] for recipe in RECIPES if "xxlarge" in recipe.stem)
    fields, head = load_model_config("albert-xxlarge-v2") | {"num_choices": 4}, "multiple-choice"
    with torch.device("meta"):
        ours = [make_layer() for make_layer in model_layers(build_config(fields, head), head)]
        theirs = AlbertForMultipleChoice(AlbertConfig(**fields))
    names = {layer.hugging_face_name(name): p.shape for layer in ours for name, p in layer.named_parameters()}
    assert names == {name: parameter.shape for name, parameter in theirs.named_parameters()}
    words = ["--config_name", "albert-xxlarge-v2", "--stages", str(stages), "--head", head]
    assert main(["stage-map", "make", *words]) == 0
    owners = json.loads(capsys.readouterr().out)["module_to_stage_map"]
    assert stages == 4 and len(owners) == len(ours) and sorted(set(owners)) == list(range(stages))
