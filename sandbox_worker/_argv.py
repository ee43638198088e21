"""Arguments that a `run` rule allows, as a list of items: `*` is any one argument, `**` any number of them. Pure.

Every other item is an argument to the letter. `**` stands in a list at most once, wherever: so two lists can be
compared exactly (`contains`), without a search. The name by which a command is called is not among its arguments.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    Items = tuple[str, ...]

ANY: Final = "*"
REST: Final = "**"
ITEMS_MAX: Final = 100
ITEM_MAX: Final = 4096
"""Characters of one item."""
LEGAL: Final = (
    f'an array of at most {ITEMS_MAX} texts: arguments to the letter, without *; "*" for any one argument; "**", '
    "at most once, for any number of them"
)
PATTERN: Final = "^(?:\\*{1,2}|[^*\\u0000]*)$"
"""Of one item, in the syntax that Python and ECMA-262 share."""


def parse(value: object) -> Items:
    """The items of a manifest or a grant. Raises ValueError for what is not `LEGAL`."""
    if not isinstance(value, list | tuple) or len(value) > ITEMS_MAX:
        raise ValueError(LEGAL)
    items = tuple(value)
    if any(type(item) is not str or not _legal(item) for item in items) or items.count(REST) > 1:
        raise ValueError(LEGAL)
    return items


def matches(items: Items, arguments: Sequence[str]) -> bool:
    """Whether these arguments, without the command's own name, are allowed."""
    head, rest, tail = _parts(items)
    if len(arguments) < len(head) + len(tail) or (not rest and len(arguments) != len(head)):
        return False
    last = arguments[len(arguments) - len(tail) :]
    return all(
        item in (ANY, argument)
        for item, argument in (*zip(head, arguments, strict=False), *zip(tail, last, strict=True))
    )


def contains(outer: Items | None, inner: Items | None) -> bool:
    """Whether `outer` allows all arguments that `inner` allows; None allows all there are."""
    if outer is None or inner is None:
        return outer is None or (inner is None and set(outer) == {REST})
    head, rest, tail = _parts(outer)
    inner_head, inner_rest, inner_tail = _parts(inner)
    fixed = len(inner_head) + len(inner_tail)
    if not rest:
        return not inner_rest and len(head) == fixed and _each_contains(head, inner_head)
    if fixed < len(head) + len(tail):
        return False
    if not inner_rest:
        return _each_contains(head, inner_head) and _each_contains(tail, inner_head[fixed - len(tail) :])
    # Beyond what `inner` fixes at either end any argument may stand.
    first = (*inner_head, *[ANY] * len(head))
    last = (*[ANY] * len(tail), *inner_tail)
    return _each_contains(head, first) and _each_contains(tail, last[len(last) - len(tail) :])


def _legal(item: str) -> bool:
    # A surrogate or NUL is in no argument that a TOML text could name.
    return item in (ANY, REST) or (len(item) <= ITEM_MAX and ANY not in item and "\0" not in item)


def _parts(items: Items) -> tuple[Items, bool, Items]:
    """What stands before `**`, whether it is there, and what stands behind it."""
    if REST not in items:
        return items, False, ()
    place = items.index(REST)
    return items[:place], True, items[place + 1 :]


def _each_contains(outer: Items, inner: Items) -> bool:
    return all(item in (ANY, other) for item, other in zip(outer, inner, strict=False))
