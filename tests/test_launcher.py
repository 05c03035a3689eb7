"""The command that starts another number of processes, by the launcher in use: told from what launchers really set."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ds_bert.command_line import command_for
from ds_bert.errors import UserError
from ds_bert.modeling.config import load_model_config
from ds_bert.training.arguments import TrainingArguments
from ds_bert.training.job import choose_stage_map
from ds_bert.training.parser import parse_arguments

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x"}
BATCH = {"SLURM_JOB_ID": "7"}
ONE_NODE, NODES, SLOTS = ", or `deepspeed --hostfile` with", ", or a hostfile with", "slots in all"


@pytest.mark.parametrize(
    ("environ", "processes", "command"),
    [
        ({}, 4, "`deepspeed --num_accelerators 4` or `torchrun --nproc_per_node 4`"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 1, "`deepspeed --num_accelerators 1` or `torchrun --nproc_per_node 1`"),
        (TORCHRUN, 4, "`torchrun --nproc_per_node 4`"),
        (TORCHRUN | {"GROUP_WORLD_SIZE": "1"}, 3, "`torchrun --nproc_per_node 3`"),
        (TORCHRUN | {"GROUP_WORLD_SIZE": "2"}, 4, "`torchrun --nnodes 2 --nproc_per_node 2`"),
        (TORCHRUN | {"GROUP_WORLD_SIZE": "3"}, 4, "`torchrun --nnodes 2 --nproc_per_node 2`"),
        (TORCHRUN | {"GROUP_WORLD_SIZE": "2"}, 3, "`torchrun --nproc_per_node 3`"),
        ({"CROSS_SIZE": "1"}, 4, f"`deepspeed --num_accelerators 4`{ONE_NODE} 4 {SLOTS}"),
        ({"CROSS_SIZE": "8"}, 64, f"`deepspeed --num_nodes 8 --num_accelerators 8`{NODES} 64 {SLOTS}"),
        ({"CROSS_SIZE": "8"}, 4, f"`deepspeed --num_nodes 4 --num_accelerators 1`{NODES} 4 {SLOTS}"),
        ({"CROSS_SIZE": "4"}, 7, f"`deepspeed --num_nodes 1 --num_accelerators 7`{NODES} 7 {SLOTS}"),
        (BATCH | {"CROSS_SIZE": "2", "SLOTS": "1"}, 4, "`SLOTS=2 sbatch --nodes 2 docker/slurm.sbatch`"),
        (
            BATCH | {"CROSS_SIZE": "2", "SLOTS": "8", "SLURM_GPUS_ON_NODE": "8"},
            8,
            "`SLOTS=4 sbatch --nodes 2 --gpus-per-node 4 docker/slurm.sbatch`",
        ),
        (BATCH | {"CROSS_SIZE": "1"}, 2, f"`deepspeed --num_accelerators 2`{ONE_NODE} 2 {SLOTS}"),
    ],
)  # fmt: skip
def test_it_names_the_launcher_in_use(environ: dict[str, str], processes: int, command: str) -> None:
    assert command_for(processes, environ) == command


PROGRAM = "from ds_bert.command_line import command_for; print('\\nstart', command_for(6))"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ([], "start `deepspeed --num_accelerators 6` or `torchrun --nproc_per_node 6`"),
        (["torchrun", "--local_addr", "127.0.0.1", "--nproc_per_node", "1"], "start `torchrun --nproc_per_node 6`"),
        (
            ["deepspeed", "--num_accelerators", "1"],
            "start `deepspeed --num_accelerators 6`, or `deepspeed --hostfile` with 6 slots in all",
        ),
    ],
)
@pytest.mark.slow
def test_real_launchers_are_told_apart(tmp_path: Path, words: list[str], command: str) -> None:
    (tmp_path / "job.py").write_text(PROGRAM)
    launcher = [str(Path(sys.executable).parent / words[0]), *words[1:]] if words else [sys.executable]
    ended = subprocess.run([*launcher, "job.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert command in ended.stdout.splitlines(), ended.stderr


@pytest.mark.parametrize("world", range(1, 9))
@pytest.mark.parametrize("stages", range(1, 7))
def test_the_number_named_can_be_cut_into_the_stages(monkeypatch: pytest.MonkeyPatch, stages: int, world: int) -> None:
    monkeypatch.setattr("os.environ", TORCHRUN | {"WORLD_SIZE": str(world), "RANK": "0"})
    model, arguments = load_model_config("bert-mini"), TrainingArguments(num_stages=stages)
    if world % stages == 0:
        assert choose_stage_map(arguments, {"num_stages"}, model, 128).world_size == world
        return
    with pytest.raises(UserError, match=f"--num_stages is {stages}, but {world} process") as refused:
        choose_stage_map(arguments, {"num_stages"}, model, 128)
    (named,) = re.findall(r"such as (\d+) \(`torchrun --nproc_per_node \1`\)", str(refused.value))
    assert int(named) % stages == 0 and 0 < int(named) <= max(world, stages)


def test_no_stage_is_no_number_of_stages() -> None:
    with pytest.raises(UserError, match="--num_stages is 0, needed is at least 1"):
        parse_arguments(TrainingArguments, ["--num_stages", "0"])
