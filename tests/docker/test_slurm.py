"""The SLURM script on stand-ins for SLURM's commands: two nodes that are this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ds_bert.checkpoint.folders import checkpoints
from tests.support.refusal import LAUNCHER
from tests.support.text import prepare_data, write_model

ROOT = Path(__file__).resolve().parents[2]
# the first node serves the others, so its name must be one that resolves
SCONTROL = "#!/bin/sh\necho localhost\necho node1\n"
SRUN = """#!/bin/sh
while case $1 in --*) ;; *) false;; esac; do shift; done
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
wait $first; one=$?
wait $second; two=$?
[ $one -gt $two ] && exit $one
exit $two
"""


def submit(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run the script as SLURM does on the first node of an allocation."""
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node[0-1]", "JOB": "pipelines/pretrain.py"}
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER} | job
    return subprocess.run(
        ["bash", str(ROOT / "docker" / "slurm.sbatch"), *words],
        cwd=folder,
        env=environment | {"PATH": path, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_job_on_two_nodes(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    arguments = {
        "config_name": str(write_model(tmp_path / "bert.json")),
        "train_path": str(prepare_data(tmp_path / "text")),
        "output_dir": "out",
        "num_stages": 2,
        "max_steps": 2,
        "max_seq_length": 32,
        "max_predictions_per_seq": 5,
        "ddp_timeout": 90,
        "disable_tqdm": True,
    }
    (tmp_path / "run.json").write_text(json.dumps(arguments))
    refused = submit(tmp_path, "run.json", "--num_stages", "3")
    assert refused.returncode == 2 and "error: --num_stages is 3, but 2 processes were started" in refused.stderr
    assert "such as 3 (`SLOTS=3 sbatch --nodes 1 docker/slurm.sbatch`)" in refused.stderr
    assert "restart" not in refused.stderr
    ended = submit(tmp_path, "run.json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "embeddings, encoder layers 0–1 on rank 0 | encoder layers 2–3, head on rank 1" in ended.stdout
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["checkpoint-2"]
    (hosts,) = tmp_path.glob("hosts.*")
    assert hosts.read_text() == "localhost slots=1\nnode1 slots=1\n"
