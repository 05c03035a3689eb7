"""The checks for GPUs, with the CPU in a GPU's place: what passes, what fails, hangs or crashes, and what is said."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu import check, jobs, parity
from tests.gpu.check import Check, closing_line, run_checks, with_needed
from tests.gpu.memory import judge
from tests.gpu.ranks import ROOT, Bench, CheckFailed, Ranks, run_ranks
from tests.support.checkpoints import write_checkpoint
from tests.support.jobs import wait_for

CPU_ONLY = {"gpus": [], "count": 0, "gpu_memory": 0, "torch": "2", "cuda": "", "date": "2026-01-02T03:04:05"}
SCRIPTS = {
    "passes": "print('well done')",
    "hangs": "import time\ndef stuck():\n    time.sleep(1000)\nstuck()",
    "crashes": "import ctypes\nctypes.string_at(0)",
    "raises": "raise ValueError('no such thing')",
    "exits": "raise SystemExit(3)",
    "hangs on one rank": "import os, time\ndef stuck():\n    time.sleep(999 * int(os.environ['RANK']))\nstuck()",
}
PARTS = ("losses", "norms", "evaluated", "predicted", "weights/word")
SAID = {
    "hangs": r"(?s)rank 0 hangs.*line 3 in stuck",
    "crashes": r"(?s)rank 0 died of SIGSEGV.*Fatal Python error",
    "raises": r"(?s)rank 0 ended with status 1.*ValueError: no such thing",
    "exits": "rank 0 ended with status 3",
    "hangs on one rank": r"(?s)rank 1 hangs.*line 3 in stuck",
}


def bench(folder: Path) -> Bench:
    return Bench("cpu", 0, 0, folder, 0.0)


def scripted(folder: Path, name: str, limit: float = 30, **more: Any) -> Check:
    """A check that runs one of the scripts; those that hang have a second for it."""
    script = folder / f"{name}.py"
    script.write_text(SCRIPTS[name])

    def run(bench: Bench) -> dict[str, Any]:
        run_ranks(bench, [script], name, count=2 if "one rank" in name else 1)
        return {"printed": (bench.folder / name / "rank-0.txt").read_text().strip()}

    return Check(name, 2 if "hangs" in name else limit, run, **more)


def test_each_fault_is_its_own_checks_alone(tmp_path: Path) -> None:
    begin, told = time.monotonic(), list[Any]()
    outcomes = run_checks([scripted(tmp_path, name) for name in SCRIPTS], bench(tmp_path), told.append)
    assert time.monotonic() - begin < 30 and told == outcomes
    assert {one.name: one.status for one in outcomes} == dict.fromkeys(SAID, "failed") | {"passes": "ok"}
    for one in outcomes:
        assert re.search(SAID.get(one.name, "^$"), one.message), one.message
    assert outcomes[0].line.endswith("ok  (printed: well done)") and "FAILED: rank 0 hangs\n" in outcomes[1].line
    assert closing_line(outcomes) == "gpu-check: 1 passed, 5 failed, 0 skipped"


def test_what_cannot_be_run_is_skipped_with_the_reason(tmp_path: Path) -> None:
    checks = [
        scripted(tmp_path, "raises"),
        scripted(tmp_path, "passes", needs=("raises",)),
        scripted(tmp_path, "exits", gpus=2),
        scripted(tmp_path, "crashes", limit=1000),
        scripted(tmp_path, "hangs", needs=("exits",)),
    ]
    outcomes = run_checks(checks, bench(tmp_path), lambda outcome: None, total_seconds=60)
    assert [one.status for one in outcomes] == ["failed", "skipped", "skipped", "skipped", "skipped"]
    _, failed, gpus, late, skipped = (one.message for one in outcomes)
    assert failed == "needs raises, which failed" and gpus == "needs 2 GPUs, here are 0"
    assert re.fullmatch(r"may take 1000 s, and \d\d s are left", late) and skipped == "needs exits, which was skipped"


@pytest.mark.parametrize(
    ("machine", "flags", "name", "status", "last"),
    [
        (CPU_ONLY, [], "raises", 0, "0 passed, 0 failed, 1 skipped"),
        (CPU_ONLY, ["--cpu"], "raises", 1, "0 passed, 1 failed, 0 skipped"),
        (CPU_ONLY, ["--cpu"], "passes", 0, "1 passed, 0 failed, 0 skipped"),
        (CheckFailed("rank 0 hangs"), [], "passes", 1, "0 passed, 1 failed, 1 skipped"),
    ],
)
def test_the_last_line_the_status_and_the_json(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    machine: Any,
    flags: list[str],
    name: str,
    status: int,
    last: str,
) -> None:
    def look(folder: Path) -> dict[str, Any]:
        if isinstance(machine, Exception):
            raise machine
        return machine

    monkeypatch.setattr(check, "CHECKS", [scripted(tmp_path, name)])
    monkeypatch.setattr(check, "look_at_machine", look)
    output = tmp_path / "results" / "one.json"
    assert check.main([*flags, "--output", str(output)]) == status
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"gpu-check: {last}" and printed.count("gpu-check: ") == 1
    assert ("there is no GPU here" in printed) == (machine is CPU_ONLY and not flags)
    report = json.loads(output.read_text())
    counts = [sum(one["status"] == kind for one in report["checks"]) for kind in ("ok", "failed", "skipped")]
    assert counts == [int(number) for number in re.findall(r"\d+", last)]
    assert report["checks"][-1].keys() == {"name", "status", "seconds", "figures", "message"}
    with pytest.raises(SystemExit, match="2"):
        check.main(["--output", str(output)])  # is not overwritten


def test_the_checks_stand_behind_what_they_need_and_fit_in_one_by_one() -> None:
    names = [one.name for one in check.CHECKS]
    for place, one in enumerate(check.CHECKS):
        assert set(one.needs) <= set(names[:place]) and one.limit <= check.TOTAL_SECONDS / 4
    wanted = [one.name for one in with_needed(["job-resumed", "one-stage"], check.CHECKS)]
    assert wanted == ["reference", "one-stage", "job-twice", "job-killed", "job-resumed"]


def test_the_files_of_results_are_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "RESULTS", tmp_path)
    machine = CPU_ONLY | {"gpus": ["NVIDIA H100 80GB HBM3"] * 2, "count": 2}
    for name in ("2026-01-02-2x-nvidia-h100-80gb-hbm3.json", "2026-01-02-2x-nvidia-h100-80gb-hbm3-2.json"):
        found = check.default_output(machine)
        assert found == tmp_path / name
        found.touch()


def test_ranks_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(1000)")
    code = (
        "import time\nfrom pathlib import Path\nfrom tests.gpu.ranks import Ranks\n"
        f"ranks = Ranks([{str(tmp_path / 'hangs.py')!r}], Path({str(tmp_path)!r}), 'cpu')\ntime.sleep(1000)"
    )
    printed = tmp_path / "rank-0.txt"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as starter:
        wait_for(lambda: printed.exists() and printed.read_text().endswith("\n"))
        starter.kill()
    wait_for(lambda: not Path("/proc", printed.read_text().strip(), "fd").exists(), 10)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """What a world's ranks could have found."""
    found: dict[str, np.ndarray] = {}
    for kind, cases in (("plain", parity.CASES), ("dropping", parity.DROPPING)):
        for name in cases:
            found |= {f"{kind}/{name}/{part}": np.linspace(1.0, 2.0, 5) for part in PARTS}
            found[f"{kind}/{name}/weights/key.bias"] = np.linspace(1e-4, 2e-4, 5)
    for name in parity.POISONED:
        third = np.array(parity.ONLY_THE_THIRD)
        found |= {f"poisoned/{name}/skipped": third, f"poisoned/{name}/stayed": third.copy()}
        found[f"poisoned/{name}/finite"] = np.array(True)
    return found | {"meta/first order/loss": np.array(1.5), "meta/first order/gradient/word": np.linspace(-1, 1, 3)}


def changed(arrays: dict[str, np.ndarray], key: str, change: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    copy = arrays[key].copy()
    copy[...] = change(copy)
    return arrays | {key: copy}


@pytest.mark.parametrize("precision", parity.TOLERANCES)
@pytest.mark.parametrize("part", PARTS)
def test_a_deviation_is_found_where_it_is_larger_than_allowed(
    arrays: dict[str, np.ndarray], part: str, precision: str
) -> None:
    name = f"1f1b, adamw, {precision}"
    what = {"losses": "loss", "norms": "norm"}.get(part, part.partition("/")[0])
    allowed = getattr(parity.TOLERANCES[precision], what)
    near, far = (changed(arrays, f"plain/{name}/{part}", lambda a, f=f: a * (1 + f * allowed)) for f in (0.5, 2.0))
    assert parity.compare(near, arrays)[precision][what] == pytest.approx(0.5 * allowed)
    with pytest.raises(CheckFailed, match=f"^{name}: {what} off by [^;]*$"):
        parity.compare(far, arrays)


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("plain/2bw, sgd, bf16/losses", lambda a: a * np.nan, "2bw, sgd, bf16: loss off by nan"),
        ("dropping/1f1b, sgd, fp32/weights/word", lambda a: a + 1e-4, "1f1b, sgd, fp32 with dropout: weights off by"),
        ("plain/1f1b, sgd, fp32/weights/key.bias", lambda a: a + 2e-6, "1f1b, sgd, fp32: key_bias off by 2.0e-06"),
        ("poisoned/2bw, bf16/skipped", lambda a: a & False, "2bw, bf16, step 2 .* gradient of NaN"),
        ("poisoned/1f1b, fp16/stayed", lambda a: a & False, "1f1b, fp16, step 2"),
        ("poisoned/1f1b, fp32/finite", lambda a: a & False, "1f1b, fp32, step 2"),
        ("meta/first order/gradient/word", lambda a: a + 1e-5, "meta-training: .* off by 1.0e-05"),
        ("meta/first order/loss", lambda a: a * np.nan, "meta-training"),
    ],
)
def test_each_kind_of_fault_is_named(arrays: dict[str, np.ndarray], key: str, change: Any, said: str) -> None:
    parity.compare(arrays, arrays)
    with pytest.raises(CheckFailed, match=said):
        parity.compare(changed(arrays, key, change), arrays)


def test_what_two_ranks_hold_differently_is_found(tmp_path: Path) -> None:
    for rank, last in enumerate((1.0, 1.0, np.nextafter(1.0, 2.0))):
        np.savez(tmp_path / f"rank-{rank}.npz", tied=np.array([np.nan, last]), **{f"own {rank}": np.zeros(2)})
    with pytest.raises(CheckFailed, match="tied differs"):
        parity.read(tmp_path)
    (tmp_path / "rank-2.npz").unlink()
    assert parity.read(tmp_path).keys() == {"tied", "own 0", "own 1"}


def test_checkpoints_are_compared_by_their_checksums(tmp_path: Path) -> None:
    one, other, same = (write_checkpoint(tmp_path / name, step) for name, step in (("a", 1), ("b", 2), ("c", 1)))
    tensors = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "optimizer.safetensors"]
    assert jobs.differing_files(one, same) == [] and jobs.deviation(one, same) == 0.0
    assert jobs.differing_files(one, other) == [*tensors, "trainer_state.json"]
    assert 0.5 < jobs.deviation(one, other) < 5


@pytest.mark.parametrize(("resumed", "passes"), [(1e-6, True), (9e-6, True), (2e-5, False)])
def test_where_kernels_do_not_repeat_themselves_noise_is_the_yardstick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed: float, passes: bool
) -> None:
    """Two undisturbed runs differ by 1e-6."""
    printed = tmp_path / "job" / "resumed-printed"
    printed.mkdir(parents=True)
    (printed / "rank-0.txt").touch()
    monkeypatch.setattr(jobs, "run_ranks", lambda *_, **__: None)
    monkeypatch.setattr(jobs, "last_checkpoint", lambda folder: folder)
    monkeypatch.setattr(jobs, "differing_files", lambda one, other: ["model.safetensors"])
    monkeypatch.setattr(jobs, "deviation", lambda found, expected: 1e-6 if found.name == "second" else resumed)
    if passes:
        assert "by tolerance" in jobs.resume(bench(tmp_path))["compared"]
    else:
        with pytest.raises(CheckFailed, match=r"off by 2\.0e-05 .* differ by 1\.0e-06 only"):
            jobs.resume(bench(tmp_path))


@pytest.mark.parametrize(("extra", "passes"), [(0.0, True), (64.0, True), (64.1, False), (840.0, False)])
def test_a_save_may_take_64_mib(extra: float, passes: bool) -> None:
    found = {"held, MiB": 1500.0, "extra while saving, MiB": extra, "left behind, MiB": 0.0}
    if passes:
        assert judge(found)["extra while saving, MiB"] == extra
    else:
        with pytest.raises(CheckFailed, match=f"saving takes {extra:.0f} MiB .* allowed are 64"):
            judge(found)


@pytest.mark.slow
def test_all_checks_pass_on_the_cpu(tmp_path: Path) -> None:
    output = tmp_path / "cpu.json"
    command = [sys.executable, "-m", "tests.gpu.check", "--cpu", "--output", str(output)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=620)
    lines = ended.stdout.splitlines()
    assert (ended.returncode, lines[-1]) == (0, "gpu-check: 7 passed, 0 failed, 5 skipped"), ended.stdout
    report = json.loads(output.read_text())
    by_name = {one["name"]: one for one in report["checks"]}
    assert list(by_name) == [one.name for one in check.CHECKS] and report["device"] == "cpu"
    assert {name for name, one in by_name.items() if one["status"] == "skipped"} == {
        one.name for one in check.CHECKS if one.gpus
    }
    assert all(re.search("needs [124] GPU", one["message"]) for one in report["checks"] if one["status"] == "skipped")
    assert {"gpus", "driver", "torch", "cuda", "nccl", "deepspeed", "transformers", "date", "commit"} <= report[
        "machine"
    ].keys()
    assert by_name["two-replicas-gloo"]["figures"].keys() == {"fp64", "fp32", "fp16", "bf16", "meta, fp64"}
    assert by_name["job-twice"]["figures"]["same bits twice"] is True
    assert by_name["job-resumed"]["figures"] == {"compared": "to the bit"}
    assert by_name["job-killed"]["figures"]["seconds to the survivor's end"] < jobs.END_SECONDS


@pytest.mark.slow
def test_without_a_gpu_all_is_skipped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu.check"]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0 and ended.stdout.count("skipped: there is no GPU here") == len(check.CHECKS)
    assert ended.stdout.endswith(f"gpu-check: 0 passed, 0 failed, {len(check.CHECKS)} skipped\n")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    jobs.prepare(folder / "job")
    return folder


@pytest.mark.slow
def test_a_survivor_that_does_not_end_is_a_failure(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(job / "job", tmp_path / "job")
    monkeypatch.setattr(jobs, "END_SECONDS", 0.0)
    (found,) = run_checks([Check("job-killed", 90, jobs.kill)], bench(tmp_path), lambda outcome: None)
    assert found.status == "failed" and "rank 0 still runs 0 s after rank 1 died" in found.message
    assert "rank 1, died of SIGKILL" in found.message and "most recent call first" in found.message


@pytest.mark.slow
def test_a_resumed_run_that_differs_is_a_failure(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resumed run learns at another rate from where the first was ended."""
    shutil.copytree(job / "job", tmp_path / "job")
    monkeypatch.setitem(jobs.ARGUMENTS, "save_steps", 10)
    monkeypatch.setitem(jobs.ARGUMENTS, "max_steps", 20)
    monkeypatch.setattr(jobs, "STEPS", 20)
    for name in ("first", "second", "killed"):
        run_ranks(
            Bench("cpu", 0, 0, tmp_path, time.monotonic() + 90),
            jobs.words(bench(tmp_path), f"job/{name}"),
            name,
            count=2,
        )
    shutil.rmtree(tmp_path / "job/killed/checkpoint-20")
    monkeypatch.setitem(jobs.ARGUMENTS, "learning_rate", 2e-3)
    (found,) = run_checks([Check("job-resumed", 90, jobs.resume)], bench(tmp_path), lambda outcome: None)
    assert found.status == "failed" and re.match(
        r"\d+ files, model-00001-of-\d+\.safetensors the first, differ from the undisturbed run's\n", found.message
    )


def test_a_rank_can_be_signalled_and_heard(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(1000)")
    with Ranks([tmp_path / "waits.py"], tmp_path, "cpu") as ranks:
        ranks.wait_for(lambda: "here" in ranks.printed(0), time.monotonic() + 20, "it was there")
        os.kill(ranks.processes[0].pid, signal.SIGTERM)
        with pytest.raises(CheckFailed, match="a rank ended before it was known"):
            ranks.wait_for(lambda: False, time.monotonic() + 20, "it was known")
        with pytest.raises(CheckFailed, match="rank 0 died of SIGTERM"):
            ranks.succeed(time.monotonic() + 20)
