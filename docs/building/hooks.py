"""What mkdocs calls: pages that stand elsewhere in the repository or are made of the code, and links between them."""

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the checkout's ds_bert, installed or not

import links  # noqa: E402  # beside this file: mkdocs looks there first while it loads it
import reference  # noqa: E402

# Documents that must stand where people look for them in a repository, and their pages.
MIRRORS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "docker/README.md": "docker.md",
}


def generated() -> dict[str, str]:
    """Pages that are no files in docs/: {path on the site: Markdown}."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in MIRRORS.items()}
    pages["reference/index.md"] = reference.index_page()
    pages["reference/other_names.md"] = reference.other_names_page()
    pages |= {f"reference/jobs/{name}.md": text for name, text in reference.jobs_pages().items()}
    pages |= {f"reference/commands/{name}.md": text for name, text in reference.command_pages().items()}
    for folder, modules in reference.api_pages(ROOT / "ds_bert").items():
        pages[f"reference/api/{folder}.md"] = reference.module_page(folder, modules)
    for example in sorted((ROOT / "docs" / "examples").glob("*.py")):
        title = example.stem.replace("_", " ").capitalize()
        code = example.read_text(encoding="utf-8")
        pages[f"examples/{example.stem}.md"] = f"# {title}\n\n`docs/examples/{example.name}`:\n\n```python\n{code}```\n"
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the pages, and put those of a folder where the navigation names the folder."""
    config.extra["generated"] = generated()
    config.nav = [_expanded(entry, sorted(config.extra["generated"])) for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for uri, text in config.extra["generated"].items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to what the site has."""
    here = page.file.src_uri
    source = next((source for source, mirror in MIRRORS.items() if mirror == here), f"docs/{here}")
    view = config.extra.get("file_view")
    try:
        return links.rewrite(markdown, source, here, _places(files), lambda path: (ROOT / path).exists(), view)
    except ValueError as error:
        raise PluginError(str(error)) from None


def _places(files: Files) -> dict[str, str]:
    """Where the site has the files of the repository: {path there: path on the site}."""
    places = {f"docs/{file.src_uri}": file.src_uri for file in files if not file.generated_by}
    places |= MIRRORS
    places |= {f"docs/examples/{Path(uri).stem}.py": uri for uri in files.src_uris if uri.startswith("examples/")}
    for folder, modules in reference.api_pages(ROOT / "ds_bert").items():
        for module in modules:
            path = module.replace(".", "/")
            places[f"{path}.py"] = places[f"{path}/__init__.py"] = f"reference/api/{folder}.md#{module}"
        places[f"ds_bert/{folder}"] = f"reference/api/{folder}.md"
    return places


def _expanded(entry: Any, pages: list[str]) -> Any:
    if isinstance(entry, str):
        return [page for page in pages if page.startswith(entry)] if entry.endswith("/") else entry
    if isinstance(entry, list):
        return [_expanded(each, pages) for each in entry]
    return {title: _expanded(below, pages) for title, below in entry.items()}
