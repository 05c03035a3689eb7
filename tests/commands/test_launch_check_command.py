"""`ds-bert launch-check` on nodes that are folders of this machine, behind a stand-in for ssh."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ds_bert.cli import main
from ds_bert.cluster.hostfile import Hostfile
from ds_bert.cluster.nodes import Report, differences
from tests.support.refusal import the_sentence
from tests.support.text import write_model

# "down" refuses; "bare" has a folder of its own in place of this one; "old" has other packages before Python's own.
SSH = """#!/bin/sh
while [ "$1" = -o ] || [ "$1" = -p ]; do shift 2; done
host=$1; command=$2
echo "Welcome to $host"
case $host in
  down) echo "ssh: connect to host down port 22: Connection refused" >&2; exit 255;;
  bare) command="$(printf '%s' "$command" | sed "s#HERE#BARE#g") | sed 's#BARE#HERE#g'";;
  old) command=$(printf '%s' "$command" | sed "s#PYTHONPATH=#PYTHONPATH=OLD:#");;
esac
exec sh -c "$command"
"""
MAP = {"module_to_stage_map": [0, 0, 0, 1, 1, 1], "stage_to_rank_map": {"0": [0, 1], "1": [2, 3]}}
Check = Callable[..., tuple[int, str, str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Check:
    here, bare, old = (tmp_path / name for name in ("here", "bare", "old"))
    for folder in (here, bare, old / "torch-1.0.0.dist-info"):
        folder.mkdir(parents=True)
    (old / "torch-1.0.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0.0\n")
    for folder in (here, bare):
        write_model(folder / "bert.json")
        (folder / "map.json").write_text(json.dumps(MAP))
        (folder / "data").mkdir()
        (folder / "data" / "tokens.bin").write_bytes(b"same")
        (folder / "run.json").write_text(json.dumps(_arguments()))
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH.replace("HERE", str(here)).replace("BARE", str(bare)).replace("OLD", str(old)))
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{ssh.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(here)

    def run(hosts: str, *flags: str) -> tuple[int, str, str]:
        (here / "hosts").write_text(hosts)
        status = main(["launch-check", "--hostfile", "hosts", "--stage_map", "map.json", *flags])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


def _arguments(**more: Any) -> dict[str, Any]:
    return {"config_name": "bert.json", "train_path": "data", "max_seq_length": 32, "bf16": True} | more


def test_all_is_well(check: Check) -> None:
    status, out, err = check("node0 slots=2\nnode1 slots=2\n", "--run", "run.json", "--ssh_port", "2222")
    assert status == 0, err
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["node", "rank", "stage", "replica"]
    assert rows[3:5] == [["node1", "2", "1", "0"], ["node1", "3", "1", "1"]]
    size = 8 * 32 * (2 * 32 * 2 + 1)  # a micro-batch of 8 sequences: hidden states there and back in bf16, the mask
    assert f"stages 0 and 1: crosses nodes in 2 of 2 replicas: at most {2 * size / 1e3:.1f} kB a step" in out
    assert "link node0 – node1: " in out and "alike on all nodes: Python 3." in out
    assert out.endswith("OK\n")


def test_without_a_run_and_without_ssh(check: Check) -> None:
    status, out, _ = check("node0 slots=4\n", "--no_ssh")
    assert status == 0 and "boundary of stages 0 and 1: on one node" in out
    status, out, _ = check("node0 slots=2\ndown slots=2", "--no_ssh")
    assert status == 0 and "crosses nodes in 2 of 2 replicas: --run would say how many bytes" in out


def test_an_unreachable_host(check: Check) -> None:
    status, _, err = check("node0 slots=2\ndown slots=2\n", "--run", "run.json")
    assert the_sentence(status, err) == (
        "error: hosts: down: cannot be reached with ssh: ssh: connect to host down port 22: Connection refused"
    )


def test_fewer_slots_than_ranks(check: Check) -> None:
    status, _, err = check("node0 slots=2\nnode1 slots=1\n", "--run", "run.json")
    assert the_sentence(status, err) == "error: hosts: 3 slots are fewer than the 4 ranks of map.json"


def test_a_map_for_another_world(check: Check) -> None:
    status, _, err = check("node0 slots=4\nnode1 slots=4\n", "--run", "run.json")
    assert the_sentence(status, err).startswith("error: map.json: is for 4 ranks, but hosts has 8 slots")


def test_other_versions(check: Check) -> None:
    status, _, err = check("node0 slots=2\nold slots=2\n", "--run", "run.json")
    sentence = the_sentence(status, err)
    assert "hosts: torch is " in sentence and sentence.endswith(
        " on node0 but 1.0.0 on old, needed is the same on all nodes"
    )


def test_a_missing_file_and_another_one(check: Check, tmp_path: Path) -> None:
    (tmp_path / "bare" / "data" / "tokens.bin").write_bytes(b"else")
    status, _, err = check("node0 slots=2\nbare slots=2\n", "--run", "run.json")
    assert the_sentence(status, err) == (
        "error: hosts: train_path: data differs between node0 and bare, needed is the same file"
    )
    (tmp_path / "bare" / "data").rename(tmp_path / "bare" / "elsewhere")
    (tmp_path / "bare" / "bert.json").unlink()
    status, _, err = check("node0 slots=2\nbare slots=2\n", "--run", "run.json")
    assert the_sentence(status, err) == (
        "error: hosts: 2 faults: train_path: data is not on bare, needed is the same path on all nodes; "
        "config_name: bert.json is not on bare, needed is the same path on all nodes"
    )


LISTS = ("task_train_files", "supervised_train_files")


@pytest.mark.parametrize("name", [*LISTS, "task_dir", "support_file", "checkpoint"])
def test_files_of_the_meta_jobs(check: Check, tmp_path: Path, name: str) -> None:
    files = ["data", "map.json"] if name in LISTS else "data"
    (tmp_path / "here" / "run.json").write_text(json.dumps({name: files}))
    (tmp_path / "bare" / "data" / "tokens.bin").write_bytes(b"else")
    status, _, err = check("node0 slots=2\nbare slots=2\n", "--run", "run.json")
    assert the_sentence(status, err) == (
        f"error: hosts: {name}: data differs between node0 and bare, needed is the same file"
    )


def test_data_that_is_on_no_node(check: Check, tmp_path: Path) -> None:
    (tmp_path / "here" / "run.json").write_text(json.dumps({"task_train_files": ["data", "nowhere"]}))
    status, _, err = check("node0 slots=2\nnode1 slots=2\n", "--run", "run.json")
    assert "task_train_files: nowhere is not on node0 and node1" in the_sentence(status, err)


@pytest.mark.parametrize(
    ("gpus", "faults"),
    [((0, 0), []), ((2, 2), []), ((2, 0), ["node1 has 2 slots in hosts but 0 GPUs"]),
     ((0, 1), ["node0 has 2 slots in hosts but 0 GPUs", "node1 has 2 slots in hosts but 1 GPUs"])],
)  # fmt: skip
def test_a_node_with_too_few_gpus(gpus: tuple[int, int], faults: list[str]) -> None:
    reports = [Report("3.12", {}, None, {}, count, "eth0", "10.0.0.1") for count in gpus]
    found = differences(Hostfile("hosts", ("node0", "node1"), (2, 2)), reports, {}, set())
    assert found == [f"{fault}, needed are no more slots than GPUs" for fault in faults]


def test_output_that_not_all_nodes_see(check: Check, tmp_path: Path) -> None:
    (tmp_path / "here" / "run.json").write_text(json.dumps(_arguments(output_dir="runs/x")))
    status, _, err = check("node0 slots=2\nnode1 slots=2\n", "--run", "run.json")
    assert status == 0, err
    status, _, err = check("node0 slots=2\nbare slots=2\n", "--run", "run.json")
    assert "output_dir: " in the_sentence(status, err) and "is not on bare" in err
    assert not list((tmp_path / "here").glob(".launch-check*"))


@pytest.mark.parametrize("value", ["8", 0, 2.5])
def test_a_number_that_is_none(check: Check, tmp_path: Path, value: object) -> None:
    (tmp_path / "here" / "run.json").write_text(json.dumps(_arguments(max_seq_length=value)))
    status, _, err = check("node0 slots=2\nnode1 slots=2\n", "--run", "run.json")
    assert the_sentence(status, err).startswith(f"error: run.json: max_seq_length is {value!r}, needed is")
