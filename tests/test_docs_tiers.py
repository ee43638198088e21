"""docs/tiers.md has the table of what holds each permission, as it is now."""

from __future__ import annotations

from tiers_page import PAGE, page_with

from host.model.enforcement import markdown


def test_the_page_has_the_table_as_it_is_now() -> None:
    assert PAGE.read_text(encoding="utf-8") == page_with(markdown()), "run python -m tests.tiers_page"
