"""`python -m tests.tiers_page`: write the table of what holds each permission into docs/tiers.md."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from host.model.enforcement import markdown

PAGE: Final = Path(__file__).parent.parent / "docs/tiers.md"
BEGIN: Final = "<!-- made by `python -m tests.tiers_page`; tests/escape/test_enforcement.py tries every cell -->\n"
END: Final = "<!-- end -->\n"


def page_with(table: str) -> str:
    """The page as it is, with another table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table + END + after


if __name__ == "__main__":
    PAGE.write_text(page_with(markdown()), encoding="utf-8")
