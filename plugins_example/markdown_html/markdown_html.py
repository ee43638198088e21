"""Markdown to HTML by markdown-it-py, which comes from the application's own site-packages.

pluggy's own marker works in a worker as well as `sandbox_worker.plugin_api`'s; its import only takes longer.
"""

from __future__ import annotations

from typing import Final

import pluggy
from markdown_it import MarkdownIt

hookimpl: Final = pluggy.HookimplMarker("demo")

# CommonMark and tables, but raw HTML shown as text: who writes the Markdown need not be who shows the page.
_markdown: Final = MarkdownIt("commonmark", {"html": False}).enable("table")


@hookimpl
def render(text: str) -> str:
    """Return the HTML of the Markdown `text`. Raw HTML in it is escaped, links to scripts are left as text."""
    html: str = _markdown.render(text)
    return html
