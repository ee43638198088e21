"""The architecture, checked by reading the source: who may import whom, what nobody may use, how long it is."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parent.parent

SHARED: Final = (
    "sandbox_worker._argv",
    "sandbox_worker._links",
    "sandbox_worker.wire",
    "sandbox_worker.messages",
    "sandbox_worker.permissions",
    "sandbox_worker.errors",
)
"""What the host may import of the worker's package: pure modules."""
STEPS: Final = "sandbox_worker.walls.steps"

LAYERS: Final = ("host.model", "host.store", "host.run", "host.service", "host.cli")
"""Lowest first: each may import itself, those before it, and host.errors."""

WALLS: Final = "sandbox_worker.walls"
BROKER: Final = "sandbox_worker.broker"
BROKER_MAY_IMPORT: Final = (BROKER, WALLS, *SHARED, "sandbox_worker._addresses", "sandbox_worker._network")

MAY_IMPORT: Final = {layer: (*LAYERS[: i + 1], "host.errors", *SHARED, STEPS) for i, layer in enumerate(LAYERS)} | {
    "host.errors": ("host.errors", "sandbox_worker.errors"),
    "host.__init__": ("host.errors", "host.model", "host.service"),
    "host.__main__": ("host.cli", "host.errors"),
}
PUBLIC: Final = ("host.cli", "host.__main__")
"""Surfaces may use the public API, `import host`, too."""

DIET: Final = frozenset("typing dataclasses enum re json logging pathlib collections functools".split())
"""Modules that a starting worker must not pay for; what it shares with the host keeps the diet too."""

FORBIDDEN_IMPORTS: Final = frozenset("pickle marshal shelve dill cloudpickle runpy code codeop".split())
FORBIDDEN_CALLS: Final = frozenset("eval exec compile".split())
TEMPLATE: Final = ("host/service/proxy.py", "compile")
"""The one exception: a template without any text that crossed."""

MODULE_LINES: Final = 400
FUNCTION_LINES: Final = 60


@functools.cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Every module of the product by name: its file and its syntax tree."""
    found = {}
    for package in ("host", "sandbox_worker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = path.relative_to(ROOT).with_suffix("")
            if "examples" not in relative.parts:
                name = ".".join(relative.parts)
                if relative.name == "__init__" and len(relative.parts) > 2:
                    name = ".".join(relative.parts[:-1])
                found[name] = path, ast.parse(path.read_text(encoding="utf-8"))
    return found


def is_typing_guard(node: ast.AST) -> bool:
    """``if TYPE_CHECKING:``: never run."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(name: str, tree: ast.AST, *, top_only: bool = False) -> Iterator[str]:
    """What a module imports at run time, as full names; with `top_only` not what its functions import."""
    for node in ast.iter_child_nodes(tree):
        if is_typing_guard(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolved(name, node)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif not (top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            yield from imports(name, node, top_only=top_only)


def resolved(name: str, node: ast.ImportFrom) -> str:
    """The module that an import names, relative or not."""
    if not node.level:
        return node.module or ""
    path = modules()[name][0]
    package = path.relative_to(ROOT).parts[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def lies_in(imported: str, allowed: tuple[str, ...]) -> bool:
    """Whether an imported name is one of the modules or packages, or lies in one."""
    return any(imported == entry or imported.startswith(entry + ".") for entry in allowed)


def layer_of(name: str) -> str:
    """The row of MAY_IMPORT for a module of the host."""
    return name if name in MAY_IMPORT else ".".join(name.split(".")[:2])


def of(package: str) -> list[str]:
    """The modules of a package."""
    return [name for name in modules() if name.split(".")[0] == package]


def test_there_is_something_to_check() -> None:
    """A moved folder must not make these tests pass by finding nothing."""
    assert len(of("host")) > 15
    assert len(of("sandbox_worker")) > 20
    assert {layer_of(name) for name in of("host")} <= set(MAY_IMPORT)
    assert set(LAYERS) <= {layer_of(name) for name in of("host")}


@pytest.mark.parametrize("name", of("sandbox_worker"))
def test_the_worker_imports_nothing_of_the_host(name: str) -> None:
    assert [found for found in imports(name, modules()[name][1]) if lies_in(found, ("host",))] == []


@pytest.mark.parametrize("name", of("host"))
def test_the_host_imports_downwards_alone(name: str) -> None:
    allowed = MAY_IMPORT[layer_of(name)]
    ours = [found for found in imports(name, modules()[name][1]) if found.split(".")[0] in ("host", "sandbox_worker")]
    wrong = [found for found in ours if not lies_in(found, allowed)]
    if layer_of(name) in PUBLIC:
        wrong = [found for found in wrong if found != "host"]
    assert wrong == []


@pytest.mark.parametrize(("program", "user"), [("walls.spawner", "host.run.spawner"), ("broker", "host.run.broker")])
def test_a_helper_is_named_in_one_text_and_imported_by_nobody(program: str, user: str) -> None:
    """The host never loads what has ctypes, or what a worker's memory is read with: other processes run that."""
    texts = {name: modules()[name][0].read_text(encoding="utf-8") for name in of("host")}
    assert [name for name, text in texts.items() if f'"sandbox_worker.{program}' in text] == [user]
    imported = {found for name in of("host") for found in imports(name, modules()[name][1])}
    assert [found for found in imported if lies_in(found, (f"sandbox_worker.{program}",))] == []


@pytest.mark.parametrize("name", of("sandbox_worker"))
def test_the_broker_imports_the_walls_and_what_is_shared_and_nobody_imports_it(name: str) -> None:
    ours = [found for found in imports(name, modules()[name][1]) if found.split(".")[0] == "sandbox_worker"]
    if lies_in(name, (BROKER,)):
        assert [found for found in ours if not lies_in(found, BROKER_MAY_IMPORT)] == []
    else:
        assert [found for found in ours if lies_in(found, (BROKER,))] == []


def test_ctypes_is_imported_under_the_walls_alone() -> None:
    users = [
        name for name, (_, tree) in modules().items() if "ctypes" in [i.split(".")[0] for i in imports(name, tree)]
    ]
    assert users
    assert [name for name in users if not name.startswith("sandbox_worker.walls.")] == []


@pytest.mark.parametrize("name", modules())
def test_nothing_is_unpickled_or_evaluated(name: str) -> None:
    path, tree = modules()[name]
    assert FORBIDDEN_IMPORTS & {found.split(".")[0] for found in imports(name, tree)} == set()
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    found = {(str(path.relative_to(ROOT)), call) for call in calls & FORBIDDEN_CALLS}
    assert found <= {TEMPLATE}


@pytest.mark.parametrize("name", of("sandbox_worker"))
def test_a_worker_keeps_its_diet(name: str) -> None:
    found = {imported.split(".")[0] for imported in imports(name, modules()[name][1], top_only=True)}
    assert found & DIET == set()


@pytest.mark.parametrize("name", modules())
def test_a_module_is_one_sitting(name: str) -> None:
    assert len(modules()[name][0].read_text(encoding="utf-8").splitlines()) <= MODULE_LINES


@pytest.mark.parametrize("name", modules())
def test_a_function_fits_on_a_screen(name: str) -> None:
    functions = [
        node for node in ast.walk(modules()[name][1]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > FUNCTION_LINES] == []


def undocumented(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Public functions and classes without a docstring; an overload's are those of what it overloads."""
    for node in body:
        if is_typing_guard(node) or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{node.name}.")


@pytest.mark.parametrize("name", modules())
def test_whatever_is_public_says_what_it_is(name: str) -> None:
    tree = modules()[name][1]
    assert ast.get_docstring(tree)
    assert list(undocumented(tree.body)) == []


@pytest.mark.parametrize("name", modules())
def test_the_source_holds_no_loose_ends(name: str) -> None:
    text = modules()[name][0].read_text(encoding="utf-8")
    assert [word for word in ("TODO", "FIXME", "XXX") if word in text] == []
