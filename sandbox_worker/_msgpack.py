"""msgpack's C extension without its package, and a way through msgpack's headers.

The extension is loaded alone where there is one: half the cost of the package at a worker's start.

Measured on Python 3.12 as ``python -I -S -B -c``, one CPU, medians of 40: 1.59 x a bare interpreter with the package,
1.26 x with this.

The extension imports `msgpack.exceptions` and `msgpack.ext`, whose import of collections is what costs: for that one
name tuple a lean stand-in serves. So do stand-ins for datetime and struct, which are little more than the extensions
beneath them. The extension keeps the classes that it saw when it was loaded, so a plugin that
imports msgpack itself is given those very modules by `KeptModules`; the rest of the package it loads as ever.
"""

from __future__ import annotations

import sys
from _frozen_importlib import ModuleSpec

from sandbox_worker.errors import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Final, Self

MAX_DEPTH: Final = 64
MAX_ITEMS: Final = 1 << 20
LARGE: Final = 1 << 17
"""Bytes from which on a bytes value is large."""

_KEPT: Final = ("msgpack.exceptions", "msgpack.ext", "msgpack._cmsgpack")


def _namedtuple(name: str, fields: str) -> type:
    """collections.namedtuple, as far as `msgpack.ext` and its users take it."""
    names = tuple(fields.split())

    class Named(tuple):  # type: ignore[type-arg]
        __slots__ = ()
        _fields = names

        def __new__(cls, *values: object) -> Self:
            return tuple.__new__(cls, values)

        def __getnewargs__(self) -> tuple[object, ...]:
            return tuple(self)

        def __repr__(self) -> str:
            return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in zip(names, self, strict=True))})"

        def _asdict(self) -> dict[str, object]:
            return dict(zip(names, self, strict=True))

        def _replace(self, **changes: object) -> Self:
            return type(self)(*(self._asdict() | changes).values())

    for index, field in enumerate(names):
        setattr(Named, field, _item(index))
    Named.__name__ = Named.__qualname__ = name
    return Named


def _item(index: int) -> property:
    return property(lambda self: self[index])


def _of_extension(name: str) -> ModuleType:
    """The module of the standard library, as far as its extension goes, whose name has an underscore before."""
    module = type(sys)(name)
    found = vars(__import__(f"_{name}"))
    vars(module).update({key: value for key, value in found.items() if not key.startswith("__")})
    return module


def _lean(folder: str) -> dict[str, ModuleType]:
    """Load the extension from the package's `folder`; leaves nothing of it in sys.modules."""
    new = type(sys)
    package, collections = new("msgpack"), new("collections")
    package.__path__ = [folder]
    collections.namedtuple = _namedtuple  # type: ignore[attr-defined]
    lean = (collections, _of_extension("datetime"), _of_extension("struct"))
    stand_ins = {"msgpack": package, **{module.__name__: sys.modules.get(module.__name__, module) for module in lean}}
    before = set(sys.modules)
    sys.modules.update(stand_ins)
    try:
        import msgpack._cmsgpack  # noqa: F401 - it is taken from sys.modules, with what it imported

        return {name: sys.modules[name] for name in _KEPT}
    finally:
        for name in {*_KEPT, *stand_ins} - before:
            sys.modules.pop(name, None)


class KeptModules:
    """Finder and loader for a plugin that imports msgpack: the modules that the wire already uses."""

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self._modules = modules

    def find_spec(self, fullname: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Our spec for a module that is kept, None for every other."""
        return ModuleSpec(fullname, self) if fullname in self._modules else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The kept module itself."""
        return self._modules[spec.name]

    def exec_module(self, _module: ModuleType) -> None:
        """Nothing: it ran when this worker started."""


def _load() -> tuple[Any, Any, dict[str, ModuleType]]:
    folder = getattr(sys.modules.get("sandbox_worker"), "MSGPACK", None)
    if folder is not None:
        try:
            modules = _lean(folder)
        except ImportError:
            sys.path.insert(0, folder[: folder.rindex("/")])
            try:
                import msgpack
            finally:
                del sys.path[0]
            return msgpack.Packer, msgpack.unpackb, {}
        extension: Any = modules[_KEPT[-1]]
        return extension.Packer, extension.unpackb, modules
    import msgpack

    return msgpack.Packer, msgpack.unpackb, {}


Packer, unpackb, MODULES = _load()
"""`MODULES` are those that a plugin's own msgpack must share with the wire's, by name."""

_FIXED: Final = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip
_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_COUNTED: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


class Walk:
    """A way through the headers of `end` bytes without building anything: depth, items, every claim within bounds."""

    __slots__ = ("at", "end", "items", "open")

    def __init__(self, end: int) -> None:
        self.at = self.items = 0
        self.end = end
        self.open: list[int] = []

    def go(self, body: Any, large: bool = False) -> int:  # noqa: C901 - each item would pay for a call
        """Go on through what is there of the body. Raises WireError.

        With `large`, stops in front of a large value and returns its length.
        """
        at, end, items, counts = self.at, self.end, self.items, self.open
        whole = end if len(body) >= end else len(body) - 4  # in front of that a header is there whole
        while at < whole:
            items += 1
            if items > MAX_ITEMS:
                raise WireError(f"more than {MAX_ITEMS} items")
            behind, children = _header(body, at)
            if behind > end or children > end - behind:
                raise WireError("a length beyond the frame")
            if behind - at > LARGE and large and body[at] == 0xC6:
                self.at, self.items = at, items - 1
                return behind - at - 5
            at = behind
            if children:
                if len(counts) >= MAX_DEPTH:
                    raise WireError(f"nested deeper than {MAX_DEPTH}")
                counts.append(children)
                continue
            while counts:
                counts[-1] -= 1
                if counts[-1]:
                    break
                counts.pop()
            if not counts:
                break
        self.at, self.items = at, items
        if items and not counts:
            if at != end:
                raise WireError("bytes behind the value")
        elif len(body) >= end:
            raise WireError("truncated value")
        return 0


def _header(body: bytes, at: int) -> tuple[int, int]:
    """(offset behind the value's own bytes, number of values that belong to it) for the value at `at`."""
    tag = body[at]
    at += 1
    if tag < 0x80 or tag >= 0xE0:
        return at, 0
    if tag < 0x90:
        return at, 2 * (tag & 15)
    if tag < 0xA0:
        return at, tag & 15
    if tag < 0xC0:
        return at + (tag & 31), 0
    if tag in _FIXED:
        return at + _FIXED[tag], 0
    if tag in _SIZED:
        width = _SIZED[tag]
        return at + width + int.from_bytes(body[at : at + width], "big"), 0
    if tag in _COUNTED:
        width, factor = _COUNTED[tag]
        return at + width, factor * int.from_bytes(body[at : at + width], "big")
    raise WireError("an extension or reserved type")
