"""The documentation site: links as it needs them, and reference pages that leave nothing out."""

import argparse
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ds_bert.command_line import load_named
from ds_bert.commands import COMMANDS
from ds_bert.training.declaration import Bounds, flags_of
from ds_bert.training.unknown import JOBS
from tests.test_flags import parsers

ROOT = Path(__file__).resolve().parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "building" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


links, reference = load("links"), load("reference")
PAGES = {
    "README.md": "index.md",
    "docs/guide.md": "guide.md",
    "docs/experiments/README.md": "experiments/README.md",
    "docs/images/a.png": "images/a.png",
    "ds_bert/stage_map.py": "reference/api/ds_bert.md#ds_bert.stage_map",
}


@pytest.mark.parametrize(
    ("source", "here", "link", "expected"),
    [
        ("README.md", "index.md", "[guide](docs/guide.md#start)", "[guide](guide.md#start)"),
        ("README.md", "index.md", "![a](docs/images/a.png)", "![a](images/a.png)"),
        ("README.md", "index.md", "[longer runs](docs/experiments)", "[longer runs](experiments/README.md)"),
        ("docs/guide.md", "guide.md", "[top](../README.md)", "[top](index.md)"),
        ("docs/experiments/README.md", "experiments/README.md", "[g](../guide.md)", "[g](../guide.md)"),
        ("docs/guide.md", "guide.md", "[`it`](../ds_bert/stage_map.py)",
         "[`it`](reference/api/ds_bert.md#ds_bert.stage_map)"),
        ("docs/a/b.md", "a/b.md", "see `stage_map.py`",
         "see [`stage_map.py`](../reference/api/ds_bert.md#ds_bert.stage_map)"),
        ("docs/guide.md", "guide.md", "[the test](../tests/test_site.py)", "the test (`tests/test_site.py`)"),
        ("docs/guide.md", "guide.md", "[`tests/test_site.py`](../tests/test_site.py)", "`tests/test_site.py`"),
        ("docs/guide.md", "guide.md", "[w](https://example.org/a.md), [h](#here)",
         "[w](https://example.org/a.md), [h](#here)"),
        ("docs/guide.md", "guide.md", "`[no](link.md)`\n\n```\n[no](link.md)\n```", None),
    ],
)  # fmt: skip
def test_links(source: str, here: str, link: str, expected: str | None) -> None:
    found = links.rewrite(link, source, here, PAGES, lambda path: (ROOT / path).exists())
    assert found == (expected or link)


def test_links_to_files_lead_to_where_the_repository_can_be_read() -> None:
    view = "https://example.org/ds_bert/blob/HEAD"
    found = links.rewrite("[it](../setup.cfg)", "docs/guide.md", "guide.md", PAGES, lambda path: True, view)
    assert found == f"[it]({view}/setup.cfg)"


def test_links_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match=r"docs/guide\.md: .*leads to nowhere\.md, which is not there"):
        links.rewrite("[it](../nowhere.md)", "docs/guide.md", "guide.md", PAGES, lambda path: (ROOT / path).exists())


def rows(page: str) -> dict[str, list[str]]:
    """The cells of a page's tables, by the flag or argument that a row is about."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in page.splitlines() if line.startswith("| [`")]
    return {re.findall(r"`([^`]+)`", cells[0])[0]: [cell.strip() for cell in cells] for cells in lines}


@pytest.mark.parametrize("script", JOBS)
def test_a_job_has_all_of_its_flags_on_its_page(script: str) -> None:
    flags = flags_of(load_named(JOBS[script]))
    found = rows(reference.jobs_pages()[Path(script).stem])
    assert found.keys() == {f"--{name}" for name in flags}
    for name, flag in flags.items():
        _, takes, default, what, resume = found[f"--{name}"]
        assert takes and default and resume in reference._AT_RESUME.values()
        assert not isinstance(flag.allowed, Bounds) or str(flag.allowed).removeprefix("a number ") in takes
        assert flag.deepspeed in what and all(f"`{choice}`" in takes for choice in flag.choices or ())


def actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    return (action for action in parser._actions if action.option_strings and action.dest != "help")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_all_of_its_flags_on_its_page(command: str) -> None:
    page = reference.command_pages()[command]
    for parser in parsers(command):
        for action in actions(parser):
            assert f"`{action.option_strings[-1]}`" in page
    assert "%(" not in page and "==SUPPRESS==" not in page


def test_every_module_is_on_one_page() -> None:
    found = [module for modules in reference.api_pages(ROOT / "ds_bert").values() for module in modules]
    files = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "ds_bert").rglob("*.py")]
    assert sorted(found) == sorted(".".join(path.parts).removesuffix(".__init__") for path in files)


def test_every_document_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    for path in (ROOT / "docs").rglob("*.md"):
        assert f"- {path.relative_to(ROOT / 'docs')}\n" in text, path


def test_pages_of_other_names_have_every_sentence() -> None:
    assert "| `--evaluation_strategy` | `--eval_steps` says when" in reference.other_names_page()


def test_nothing_is_fetched() -> None:
    """Neither fonts nor what else the theme would take from elsewhere."""
    text = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in text and "//" not in re.sub(r"#.*", "", text)
