"""msgpack's C extension without its package, where there is one: half the cost of the package at a worker's start.

Measured on Python 3.12 as ``python -I -S -B -c``, one CPU, medians of 40: 1.59 x a bare interpreter with the package,
1.26 x with this.

The extension imports `msgpack.exceptions` and `msgpack.ext`, whose import of collections is what costs: for that one
name tuple a lean stand-in serves. The extension keeps the classes that it saw when it was loaded, so a plugin that
imports msgpack itself is given those very modules by `KeptModules`; the rest of the package it loads as ever.
"""

from __future__ import annotations

import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Final, Self

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


def _lean(folder: str) -> dict[str, ModuleType]:
    """Load the extension from the package's `folder`; leaves nothing of it in sys.modules."""
    new = type(sys)
    package, collections = new("msgpack"), new("collections")
    package.__path__ = [folder]
    collections.namedtuple = _namedtuple  # type: ignore[attr-defined]
    stand_ins = {"msgpack": package, "collections": sys.modules.get("collections", collections)}
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
