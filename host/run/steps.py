"""A call as a series of steps, so that a thread and an event loop take the very same ones.

A generator does all that a call does except to wait. It yields what it wants: the number of a descriptor that is to be
readable, and then it reads from that exactly once; or something to run that may take long, whose result it is sent and
whose exception it is thrown. What it returns is the result. When it is closed it cleans up, and wants nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

_T = TypeVar("_T")

Want: TypeAlias = int | Callable[[], Any]
Steps: TypeAlias = Generator[Want, Any, _T]


def run(steps: Steps[_T]) -> _T:
    """Take all steps in this thread, which waits: in the reads, and in what it runs. Raises what the steps raise."""
    try:
        want = next(steps)
        while True:
            if isinstance(want, int):
                want = steps.send(None)
                continue
            try:
                given = want()
            except BaseException as e:  # noqa: BLE001 - it is the steps' affair
                want = steps.throw(e)
            else:
                want = steps.send(given)
    except StopIteration as end:
        result: _T = end.value
        return result
    except BaseException:  # KeyboardInterrupt between two steps
        steps.close()
        raise


def in_thread(work: Callable[[], _T]) -> Steps[_T]:
    """The one step of running `work`."""
    result: _T = yield work
    return result
