"""The table of flags names only flags that the jobs have, and the shipped settings are the published ones."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from ds_bert.files import shipped_configs
from ds_bert.meta.arguments import FewShotArguments, MetaTrainArguments
from ds_bert.training.parser import parse_arguments

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "coming_from" / "meta_adapters.md"
# The commands of the published README.
PUBLISHED = {
    "meta_train": "bert_config_file init_checkpoint data_dir task_train_files supervised_train_files "
    "num_supervised_shards inner_epochs average_query_every train_batch_size meta_batchsz num_batches stop_grad "
    "output_dir save_steps log_steps learning_rate train_lr parameter_efficient adapter_hidden_size global_adapters",
    "few_shot": "support_file test_file tf2_checkpoint epochs train_batch_size num_labels bert_config_file k "
    "parameter_efficient global_adapters adapter_hidden_size loss_threshold",
}
KINDS = {"meta_train": MetaTrainArguments, "few_shot": FewShotArguments}


def rows(job: str) -> dict[str, str]:
    """{their flag: ours} of a job's table."""
    section = GUIDE.read_text().split(f"pipelines/{job}.py\n\n| flag")[1].split("\n\n")[0]
    return dict(re.findall(r"^\| `--(\w+)` \| `--(\w+)` \|", section, re.MULTILINE))


@pytest.mark.parametrize("job", list(KINDS))
def test_every_published_flag_has_a_successor_that_exists(job: str) -> None:
    found = rows(job)
    assert set(PUBLISHED[job].split()) <= set(found)
    assert set(found.values()) <= {field.name for field in fields(KINDS[job])}


@pytest.mark.parametrize("job", list(KINDS))
def test_help_shows_them(job: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(KINDS[job], ["--help"])
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name in rows(job).values())


# The table of metanlp's README: {k: (epochs, examples of a batch)}, both times the number of classes.
EVALUATED = {
    "hybrid_smlmt": {4: (150, 4), 8: (175, 8), 16: (200, 4), 32: (100, 8)},
    "leopard": {4: (150, 2), 8: (200, 2), 16: (200, 4), 32: (50, 2)},
}


@pytest.mark.parametrize(("name", "k"), [(name, k) for name, rows in EVALUATED.items() for k in rows])
def test_the_papers_evaluation_is_shipped(name: str, k: int) -> None:
    arguments, _ = parse_arguments(FewShotArguments, [str(shipped_configs() / "few_shot" / f"{name}_k{k}.json")])
    assert arguments.scale_by_classes and arguments.k == [k]
    assert (arguments.epochs, arguments.train_batch_size) == EVALUATED[name][k]
    assert (arguments.loss_threshold, arguments.lr_scheduler_type) == (0.0, "linear_from_start")


@pytest.mark.parametrize("file", sorted((shipped_configs() / "meta").glob("*.json")), ids=lambda file: file.stem)
def test_shipped_settings_are_taken(file: Path) -> None:
    arguments, given = parse_arguments(MetaTrainArguments, [str(file), "--learning_rate=1e-5"])
    assert set(json.loads(file.read_text())) == given
    assert (arguments.train_batch_size, arguments.meta_batchsz, arguments.num_batches) == (90, 80, 8)
