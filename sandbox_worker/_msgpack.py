"""msgpack's C extension without its package, at a third of the package's import time; the package where there is no C.

The extension imports `msgpack.exceptions` and, for two classes that never cross our wire, `msgpack.ext`, whose
import of collections and datetime is what costs. In a worker a stand-in takes that module's place while the extension
loads; when the plugin itself imports msgpack, `ExtensionFinder` puts the real classes in place.
"""

from __future__ import annotations

import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

_NAMES = ("msgpack", "msgpack.ext", "msgpack.exceptions", "msgpack._cmsgpack")


def _lean(folder: str) -> ModuleType:
    """Load the extension from the package's `folder` and leave no half-made package behind in sys.modules."""
    new = type(sys)
    package, ext = new("msgpack"), new("msgpack.ext")
    package.__path__ = [folder]
    ext.ExtType = type("ExtType", (), {})  # type: ignore[attr-defined]
    ext.Timestamp = type("Timestamp", (), {})  # type: ignore[attr-defined]
    sys.modules.update({"msgpack": package, "msgpack.ext": ext})
    try:
        import msgpack._cmsgpack

        extension: ModuleType = msgpack._cmsgpack
    finally:
        for name in _NAMES:
            sys.modules.pop(name, None)
    return extension


class ExtensionFinder:
    """Finder and loader of the extension for a plugin that imports msgpack: the one that is loaded, made whole.

    It runs when the package has imported its exceptions and `ext`, so their real classes are there to be given.
    """

    def __init__(self, extension: ModuleType) -> None:
        self._extension = extension

    def find_spec(self, fullname: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Our spec for the extension's name, None for every other."""
        return ModuleSpec(fullname, self) if fullname == _NAMES[-1] else None  # type: ignore[arg-type]

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        """The loaded extension with the package's real classes."""
        ext = sys.modules["msgpack.ext"]
        self._extension.ExtType = ext.ExtType  # type: ignore[attr-defined]
        self._extension.Timestamp = ext.Timestamp  # type: ignore[attr-defined]
        return self._extension

    def exec_module(self, _module: ModuleType) -> None:
        """Nothing: it ran when this worker started."""


def _load() -> tuple[Any, Any, ModuleType | None]:
    folder = getattr(sys.modules.get("sandbox_worker"), "MSGPACK", None)
    if folder is not None:
        try:
            extension = _lean(folder)
        except ImportError:
            sys.path.insert(0, folder[: folder.rindex("/")])
            try:
                import msgpack
            finally:
                del sys.path[0]
            return msgpack.Packer, msgpack.unpackb, None
        return extension.Packer, extension.unpackb, extension
    import msgpack

    return msgpack.Packer, msgpack.unpackb, None


Packer, unpackb, EXTENSION = _load()
