"""Reading an ELF file's loader."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker.walls.elf import loader_of


def image(loader: bytes | None, *, kind: int = 3) -> bytes:
    """A 64-bit ELF file with one program header."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    text = b"" if loader is None else loader
    return header + pack("<IIQQQQQQ", kind, 4, 120, 0, 0, len(text), len(text), 1) + text


def test_the_loader_is_what_pt_interp_names() -> None:
    assert loader_of(image(b"/lib/ld-musl-x86_64.so.1\0")) == "/lib/ld-musl-x86_64.so.1"


def test_a_static_program_has_none() -> None:
    assert loader_of(image(None, kind=1)) is None


def test_the_loader_of_the_running_interpreter_exists() -> None:
    with Path(sys.executable).open("rb") as file:
        loader = loader_of(file.read(65536))
    assert loader is None or os.path.exists(loader)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"#!/bin/sh\n",
        b"\x7fELF\x01\x01" + bytes(100),
        image(b"relative\0"),
        image(b"/no/end"),
        image(b"/x\0")[:100],
    ],
    ids=["nothing", "a script", "32 bits", "a relative path", "no end", "cut off"],
)
def test_anything_else_is_an_error(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r"ELF|loader|headers"):
        loader_of(broken)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: image(b"/x\0")[:60] + tail))
def test_no_content_raises_anything_but_value_error(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        loader_of(content)
