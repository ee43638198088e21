"""Who imports the broker, and what it imports: never back."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
SHARED: Final = ("_addresses", "_network", "messages", "permissions")


def imported(file: Path) -> set[str]:
    """The modules of ours that a file imports, relative ones resolved."""
    package = [*file.relative_to(ROOT).parent.parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return {name for name in found if name.startswith(("host", "sandbox_worker"))}


def test_the_broker_imports_the_walls_and_what_is_shared() -> None:
    allowed = tuple(f"sandbox_worker.{name}" for name in ("broker", "walls", *SHARED))
    for file in (ROOT / "sandbox_worker" / "broker").glob("*.py"):
        assert {name for name in imported(file) if not name.startswith((*allowed, "sandbox_worker._"))} <= {
            "sandbox_worker"
        }, file


def test_neither_worker_nor_walls_nor_host_import_the_broker() -> None:
    files = [*(ROOT / "sandbox_worker").rglob("*.py"), *(ROOT / "host").rglob("*.py")]
    for file in files:
        if file.parent.name != "broker":
            assert not any(name.startswith("sandbox_worker.broker") for name in imported(file)), file
