"""One pipeline on two nodes, by hostfile and pdsh; a node dies, comes back, the cable is cut, the network is slow."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ds_bert.checkpoint.folders import checkpoints
from ds_bert.training.log import read_log
from tests.support.jobs import REPOSITORY, pretrain, wait_for
from tests.support.nodes import MARK, Nodes, two_nodes, what_is_missing
from tests.support.processes import free_port

pytestmark = pytest.mark.slow
LAYERS = [0, 0, 0, 1, 1, 1]
ACROSS = {"0": [0, 1], "1": [2, 3]}  # a stage on each node
BESIDE = {"0": [0, 2], "1": [1, 3]}  # a replica on each node
STEPS, LONG = 4, 80
TIMEOUT, LEEWAY = 30, 10  # seconds


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    reason = what_is_missing()
    if reason:
        pytest.skip(f"two nodes cannot be made here: {reason}")
    with two_nodes(tmp_path_factory.mktemp("nodes") / "nodes") as made:
        yield made


class Job:
    """The files of a job, in the folder where it is started."""

    def __init__(self, folder: Path, nodes: Nodes, data: Path, model: Path) -> None:
        self.folder, self.nodes, self.output = folder, nodes, folder / "out"
        self.arguments: dict[str, Any] = {
            "config_name": str(model),
            "train_path": str(data),
            "output_dir": str(self.output),
            "max_steps": STEPS,
            "max_seq_length": 32,
            "max_predictions_per_seq": 5,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 4,
            "logging_steps": 1,
            "save_steps": 0,
            "ddp_timeout": TIMEOUT,
            "disable_tqdm": True,
        }
        (folder / "hosts").write_text("node0 slots=2\nnode1 slots=2\n")
        environment = {"GLOO_SOCKET_IFNAME": "eth0", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        environment[MARK] = str(nodes.folder)
        (folder / ".deepspeed_env").write_text("".join(f"{key}={value}\n" for key, value in environment.items()))

    def write(self, ranks: dict[str, list[int]], **arguments: Any) -> None:
        (self.folder / "map.json").write_text(json.dumps({"module_to_stage_map": LAYERS, "stage_to_rank_map": ranks}))
        self.arguments |= {"stage_map": str(self.folder / "map.json"), **arguments}
        (self.folder / "run.json").write_text(json.dumps(self.arguments))

    def start(self, *before: str) -> subprocess.Popen:
        launcher = ["deepspeed", "-q", "--hostfile", "hosts", "--master_addr", self.nodes.address["node0"]]
        job = ["--master_port", free_port(), REPOSITORY / "pipelines" / "pretrain.py", "run.json"]
        with open(self.folder / "printed", "w") as printed:
            return self.nodes.start(
                [*before, *launcher, *job], stdout=printed, stderr=subprocess.STDOUT, cwd=self.folder
            )

    def printed(self) -> str:
        return (self.folder / "printed").read_text()

    def run(self, *before: str) -> None:
        assert self.start(*before).wait(150) == 0, self.printed()

    def train_until(self, step: int) -> dict[int, psutil.Process]:
        wait_for(lambda: len(read_log(self.output)) >= step, 150)
        ranks = dict(self.nodes.ranks())
        assert sorted(ranks) == [0, 1, 2, 3]
        return ranks


@pytest.fixture
def job(tmp_path: Path, nodes: Nodes, prepared: Path, model: Path) -> Job:
    return Job(tmp_path, nodes, prepared, model)


def losses(folder: Path) -> list[float]:
    return [entry["train/loss"] for entry in read_log(folder) if "train/loss" in entry]


def weights(folder: Path, step: int = STEPS) -> dict[str, bytes]:
    (checkpoint,) = [path for path in checkpoints(folder) if path.name == f"checkpoint-{step}"]
    return {path.name: path.read_bytes() for path in checkpoint.glob("*.safetensors")}


def on_one_node(job: Job, folder: Path) -> Path:
    ended = pretrain(folder / "one", [job.folder / "run.json", "--output_dir", folder / "alone"], 4, timeout=120)
    assert {rank.status for rank in ended} == {0}
    return folder / "alone"


@pytest.mark.parametrize(
    ("schedule", "ranks", "rate"), [("1f1b", ACROSS, ""), ("2bw", ACROSS, ""), ("1f1b", BESIDE, "4mbit")]
)
def test_two_nodes_give_the_numbers_of_one(job: Job, tmp_path: Path, schedule: str, ranks: Any, rate: str) -> None:
    job.write(ranks, schedule=schedule)
    if rate:
        job.nodes.narrow_cable(rate)
    job.run()
    job.nodes.repair_cable()
    alone = on_one_node(job, tmp_path)
    assert len(losses(alone)) == STEPS and losses(job.output) == losses(alone)
    assert weights(job.output) == weights(alone)


def test_a_node_dies_and_the_job_goes_on_when_it_is_back(job: Job, tmp_path: Path) -> None:
    job.write(ACROSS, max_steps=LONG, save_steps=20)
    process = job.start("ds-bert", "launch", "--max_restarts", "1", "--")
    ranks = job.train_until(30)
    job.nodes.switch_off("node1")
    began = time.monotonic()
    job.nodes.switch_on("node1")
    _, alive = psutil.wait_procs(ranks.values(), timeout=began + TIMEOUT + LEEWAY - time.monotonic())
    assert not alive, job.printed()
    assert process.wait(200) == 0, job.printed()
    printed = job.printed()
    assert "node0: error: rank 0 (stage 0, replica 0)" in printed, printed
    for rank, replica in ((2, 0), (3, 1)):
        assert f"rank {rank} (stage 1, replica {replica}) on node1, after step" in printed
    assert "node1: ssh exited with exit code 255" in printed
    assert "restart 1 of 1 with --resume" in printed
    assert weights(job.output, LONG) == weights(on_one_node(job, tmp_path), LONG)


def test_a_cut_cable_ends_the_ranks_on_both_sides(job: Job) -> None:
    job.write(ACROSS, max_steps=100_000)
    process = job.start()
    ranks = job.train_until(10)
    job.nodes.cut_cable()
    try:
        _, alive = psutil.wait_procs(ranks.values(), timeout=TIMEOUT + LEEWAY)
        assert not alive, job.printed()
        assert process.wait(60) != 0  # ssh gives up by itself
    finally:
        job.nodes.repair_cable()
    printed = job.printed()  # of node0 alone: what the others say does not arrive
    silent = r"rank [23] \(stage 1, replica [01]\) on node1, after step"
    assert re.search(rf"node0: error: rank \d \(stage 0, .*: {silent}", printed)
    assert "node1: ssh exited with exit code 255" in printed
