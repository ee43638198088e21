"""Which program loads a program: the PT_INTERP of an ELF file. Pure. Source: elf(5)."""

from __future__ import annotations

from struct import calcsize, unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_HEADER: Final = "<16xHHIQQQIHHHHHH"
_PROGRAM_HEADER: Final = "<IIQQQQQQ"
_64_BIT_LITTLE_ENDIAN: Final = b"\x7fELF\x02\x01"
_PT_INTERP: Final = 3


def loader_of(image: bytes) -> str | None:
    """The path that the program names as its loader, None when it is linked statically.

    `image` is the file's start, up to the end of the loader's path (a linker puts both tables into the first pages).
    Anything that is not such a 64-bit little-endian ELF file is a ValueError.
    """
    if not image.startswith(_64_BIT_LITTLE_ENDIAN) or len(image) < calcsize(_HEADER):
        raise ValueError("not a 64-bit little-endian ELF file")
    fields = unpack_from(_HEADER, image)
    table, entry_size, entries = fields[4], fields[8], fields[9]
    for index in range(entries):
        offset = table + index * entry_size
        if offset + calcsize(_PROGRAM_HEADER) > len(image):
            raise ValueError("the program headers lie beyond the start of the file")
        kind, _, start, _, _, size, _, _ = unpack_from(_PROGRAM_HEADER, image, offset)
        if kind == _PT_INTERP:
            return _text(image, start, size)
    return None


def _text(image: bytes, start: int, size: int) -> str:
    text = image[start : start + size]
    if len(text) != size or not text.startswith(b"/") or not text.endswith(b"\0"):
        raise ValueError("the loader's path lies beyond the start of the file, or is not an absolute path")
    return text[:-1].decode("utf-8", "surrogateescape")
