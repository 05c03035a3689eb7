"""Links of the documents, which are written for a repository's viewer, as the site needs them."""

import posixpath
import re
from collections.abc import Callable, Mapping

# Code is left alone; a link's text may hold some.
_CODE_OR_LINK = re.compile(
    r"^(?P<fence> *(?P<ticks>```+)[^\n]*\n.*?^ *(?P=ticks) *$)"
    r"|(?P<link>(?P<image>!?)\[(?P<text>(?:`[^`]*`|[^\]`])*)\]\((?P<target>[^)\s]+)\))"
    r"|(?P<span>`[^`\n]+`)",
    re.MULTILINE | re.DOTALL,
)


def rewrite(
    markdown: str,
    source: str,
    here: str,
    pages: Mapping[str, str],
    is_there: Callable[[str], bool],
    file_view: str | None = None,
) -> str:
    """Let the links of a document lead to what the site has, and modules that it names to their reference.

    Args:
        markdown: its text.
        source: its path in the repository, by "/".
        here: its path on the site.
        pages: path on the site of every file of the repository that has one there, perhaps with an anchor.
        is_there: whether the repository has the file or folder of a path.
        file_view: what comes before a file's path where the repository can be read; None: nowhere.

    Raises:
        ValueError: a link leads to what is not in the repository.
    """

    def relative(page: str, anchor: str = "") -> str:
        uri, _, own_anchor = page.partition("#")
        anchor = anchor or own_anchor
        return posixpath.relpath(uri, posixpath.dirname(here) or ".") + (f"#{anchor}" if anchor else "")

    def rewritten(match: re.Match[str]) -> str:
        if match["span"] and match["span"].endswith(".py`"):
            named = match["span"].strip("`")
            page = pages.get(named) or pages.get(f"ds_bert/{named}")
            return f"[{match['span']}]({relative(page)})" if page else match[0]
        if not match["link"] or re.match(r"[a-z]+:|#", match["target"]):
            return match[0]
        target, _, anchor = match["target"].partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = pages.get(path) or pages.get(f"{path}/README.md")
        if page:
            return f"{match['image']}[{match['text']}]({relative(page, anchor)})"
        if not is_there(path):
            raise ValueError(f"{source}: {match[0]} leads to {path}, which is not there")
        if file_view:
            return f"{match['image']}[{match['text']}]({file_view.rstrip('/')}/{path})"
        said = match["text"].strip("`")
        return f"`{path}`" if path.endswith(said) else f"{match['text']} (`{path}`)"

    return _CODE_OR_LINK.sub(rewritten, markdown)
