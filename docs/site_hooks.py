"""What MkDocs does with each page of the site beside the usual: equations, and links to files that are no pages."""

from __future__ import annotations

import html
import posixpath
import re
from typing import Any

from latex2mathml.converter import convert

EQUATION = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', flags=re.DOTALL)
"""What the Markdown extension `arithmatex` makes of `$…$` and `$$…$$`."""
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Names files of the repository that are no page, where a link would lead out of the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def named(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, found.group(2)))
        return f"{found.group(1)} (`{path.removeprefix('../')}`)" if path.startswith("../") else found.group()

    return LINK.sub(named, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Turns equations into MathML, which browsers draw by themselves: no script, and nothing from elsewhere."""
    return EQUATION.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    latex = html.unescape(found.group(2)).strip()
    return convert(latex, display="block" if found.group(1) == "div" else "inline")
