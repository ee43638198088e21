"""`python -m tests.compatibility_page`: write what of the standard library differs in a worker into its page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.append(str(Path(__file__).parent))

from stdlib import record

if TYPE_CHECKING:
    from stdlib.record import Promise

PAGE: Final = Path(__file__).parent.parent / "docs/compatibility.md"
BEGIN: Final = "<!-- made by `python -m tests.compatibility_page` from tests/stdlib/expected.toml -->\n"
END: Final = "<!-- end -->\n"


def markdown() -> str:
    """A section for each promise, in the order of the record."""
    return "\n".join(_section(promise) for promise in record.read().promises)


def _section(promise: Promise) -> str:
    where = f" (`{promise.tier}`)" if promise.tier else ""
    patterns = (*promise.tests, *promise.sometimes, *promise.avoid)
    tests = "\n".join(f"* `{pattern}`" for pattern in patterns)
    return (
        f"### {promise.title}{where}\n\n{promise.why}\n\nMet in: {promise.modules}.\n\n"
        f"<details><summary>The interpreter's tests that fail by it</summary>\n\n{tests}\n\n</details>\n"
    )


def page_with(sections: str) -> str:
    """The page as it is, with other sections."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + sections + END + after


if __name__ == "__main__":
    PAGE.write_text(page_with(markdown()), encoding="utf-8")
