"""What a manifest may hold, said once: the loader checks against it and `json_schema` is generated from it.

Pure. A node stands for one value: `check` returns it read (defaults filled in, units as numbers) or raises Mistake,
`schema` describes it to an editor. Patterns match whole texts, in the syntax that Python and ECMA-262 share. What a
single value can't tell, such as a rule's own grammar, is up to `manifest`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final

from sandbox_worker import _argv
from sandbox_worker.permissions import KINDS, RULE_MAX, SYS_NAMES

from . import units
from .mistakes import Mistake, illegal, join
from .pep440 import PEP_440

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    Node: TypeAlias = "Scalar | Table | Names | Entries"
    Schema: TypeAlias = dict[str, Any]

ENTRIES_MAX: Final = 1000
"""Entries of one kind: nobody reviews more."""
VARIABLES: Final = ("plugin", "data", "tmp", "home")
"""What ``${…}`` may name at the start of an fs target."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """A value without parts: `read` returns what it means or raises ValueError, `form` is its JSON Schema."""

    description: str
    legal: str
    read: Callable[[Any], Any]
    form: Schema
    default: bool | int | str | None = None
    absent: Any = dataclasses.field(init=False)
    """What an absent key means."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "absent", None if self.default is None else self.read(self.default))

    def check(self, key: str, value: object) -> Any:
        """Return what `value` means, or raise Mistake."""
        try:
            return self.read(value)
        except ValueError:
            raise illegal(key, value, self.legal) from None

    def schema(self) -> Schema:
        """Return the JSON Schema of the value."""
        default = {} if self.default is None else {"default": self.default}
        return {"description": f"{self.description}: {self.legal}.", **self.form, **default}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of exactly these `fields`; checked, it holds all of them."""

    description: str
    fields: Mapping[str, Node]
    required: tuple[str, ...] = ()

    @property
    def legal(self) -> str:
        """What is legal, in one line."""
        return f"a table of {', '.join(self.fields)}"

    @property
    def absent(self) -> dict[str, Any] | None:
        """What an absent key means."""
        return None if self.required else {name: node.absent for name, node in self.fields.items()}

    def check(self, key: str, value: object) -> dict[str, Any]:
        """Return all fields, or raise Mistake for the first one that is unknown, missing or not legal."""
        if not isinstance(value, dict):
            raise illegal(key, value, self.legal)
        for name in value:
            if name not in self.fields:
                raise Mistake(join(key, name), "unknown key", f"one of {', '.join(self.fields)}")
        inside = f"{key}." if key else ""
        return {name: self._field(inside + name, name, value) for name in self.fields}

    def _field(self, key: str, name: str, table: Mapping[str, object]) -> Any:
        node = self.fields[name]
        if name in table:
            return node.check(key, table[name])
        if name in self.required:
            raise Mistake(key, "is missing", node.legal)
        return node.absent

    def schema(self) -> Schema:
        """Return the JSON Schema of the table."""
        return {
            "description": f"{self.description}.",
            "type": "object",
            "additionalProperties": False,
            "properties": {name: node.schema() for name, node in self.fields.items()},
            **({"required": list(self.required)} if self.required else {}),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """A table with at least one key, whose keys are free: each matches `name`, each value is a `value`."""

    description: str
    name: Scalar
    value: Scalar
    absent: None = None

    @property
    def legal(self) -> str:
        """What is legal, in one line."""
        return f"a table of 1 to {ENTRIES_MAX} keys, each {self.name.legal}"

    def check(self, key: str, value: object) -> dict[str, str]:
        """Return the table, or raise Mistake."""
        if not isinstance(value, dict) or not 1 <= len(value) <= ENTRIES_MAX:
            raise illegal(key, value, self.legal)
        return {self.name.check(join(key, k), k): self.value.check(join(key, k), v) for k, v in value.items()}

    def schema(self) -> Schema:
        """Return the JSON Schema of the table."""
        return {
            "description": f"{self.description}.",
            "type": "object",
            "minProperties": 1,
            "maxProperties": ENTRIES_MAX,
            "propertyNames": self.name.schema(),
            "additionalProperties": self.value.schema(),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """The entries of one kind: each the target itself, or the table `entry` with the key `target`.

    Checked, they are all tables. `"*"` stands alone, so that no list looks narrower than it is.
    """

    entry: Table
    legal: str = f"an array of at most {ENTRIES_MAX} entries"

    @property
    def absent(self) -> list[dict[str, Any]]:
        """What an absent key means."""
        return []

    def check(self, key: str, value: object) -> list[dict[str, Any]]:
        """Return the entries, each a table of all its fields, or raise Mistake."""
        if not isinstance(value, list | tuple) or len(value) > ENTRIES_MAX:
            raise illegal(key, value, self.legal)
        others = {name: node.absent for name, node in self.entry.fields.items()}
        found = [self._entry(f"{key}[{index}]", item, others) for index, item in enumerate(value)]
        for index, entry in enumerate(found):
            if entry["target"] == "*" and len(found) > 1:
                raise Mistake(f"{key}[{index}]", '"*" stands beside other entries', '["*"] alone')
        return found

    def _entry(self, key: str, item: object, others: dict[str, Any]) -> dict[str, Any]:
        if isinstance(item, dict):
            return self.entry.check(key, item)
        return {**others, "target": self.entry.fields["target"].check(key, item)}

    def schema(self) -> Schema:
        """Return the JSON Schema of the array."""
        everything = {"type": "object", "properties": {"target": {"const": "*"}}, "required": ["target"]}
        return {
            "description": f"{self.entry.description}.",
            "type": "array",
            "items": {"anyOf": [self.entry.fields["target"].schema(), self.entry.schema()]},
            "maxItems": ENTRIES_MAX,
            "uniqueItems": True,
            "if": {"contains": {"anyOf": [{"const": "*"}, everything]}},
            "then": {"maxItems": 1},
            "default": [],
        }


def _only(legal: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Return the `read` of a value that means itself."""

    def read(value: object) -> object:
        if not legal(value):
            raise ValueError
        return value

    return read


def _text(description: str, legal: str, pattern: str = "", *, longest: int = 100, default: str | None = None) -> Scalar:
    """Return the node of a text of at most `longest` characters that `pattern` matches; "" matches any."""
    regex = re.compile(pattern or r"[\s\S]*")
    read = _only(lambda text: type(text) is str and len(text) <= longest and regex.fullmatch(text))
    form = {"type": "string", "maxLength": longest} | ({"pattern": f"^(?:{pattern})$"} if pattern else {})
    return Scalar(description=description, legal=legal, read=read, form=form, default=default)


def _choice(description: str, legal: str, choices: tuple[Any, ...], default: bool | str | None = None) -> Scalar:
    # By type as well: 0 and 1 equal the booleans.
    read = _only(lambda value: type(value) is type(choices[0]) and value in choices)
    return Scalar(description=description, legal=legal, read=read, form={"enum": list(choices)}, default=default)


def _flag(description: str) -> Scalar:
    return _choice(description, "true or false", (False, True), default=False)


def _count(description: str, most: int, default: int | None = None) -> Scalar:
    read = _only(lambda value: type(value) is int and 1 <= value <= most)
    legal = "1" if most == 1 else f"a whole number from 1 to {most}"
    form = {"type": "integer", "minimum": 1, "maximum": most}
    return Scalar(description=description, legal=legal, read=read, form=form, default=default)


def _size(description: str, default: str) -> Scalar:
    text = {"type": "string", "pattern": f"^(?:{units.SIZE_PATTERN})$"}
    form = {"anyOf": [text, {"type": "integer", "minimum": 1, "maximum": units.SIZE_MAX}]}
    return Scalar(description=description, legal=units.LEGAL_SIZE, read=units.parse_size, form=form, default=default)


def _duration(description: str, default: str) -> Scalar:
    form = {"type": "string", "pattern": f"^(?:{units.DURATION_PATTERN})$"}
    read, legal = units.parse_duration, units.LEGAL_DURATION
    return Scalar(description=description, legal=legal, read=read, form=form, default=default)


_IDENTIFIER: Final = "[A-Za-z_][A-Za-z0-9_]*"
_DOTTED: Final = rf"{_IDENTIFIER}(?:\.{_IDENTIFIER})*"
_CONTROLS: Final = r"\u0000-\u001f\u007f-\u009f"

_PLUGIN_KEYS: Final = {
    "name": _text("Name of the plugin", "1 to 64 characters of a-z, 0-9 and -", "[a-z0-9-]{1,64}", longest=64),
    "version": _text("Version of the plugin", 'a version as in PEP 440, such as "1.4.0"', PEP_440),
    "project": _text(  # it names the folder beneath which the plugin's data lies
        "The pluggy project name that its hook implementations are marked with",
        "1 to 64 characters of A-Z, a-z, 0-9, _, . and -, not beginning with . or -",
        "[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}",
        longest=64,
    ),
    "entry": _text(
        "What holds the hook implementations; a [functions] table takes its place",
        '"module" or "module:object", each a dotted name',
        f"{_DOTTED}(?::{_DOTTED})?",
        longest=200,
    ),
    "path": _text(
        "First folder of the worker's sys.path, relative to the manifest",
        "the path of an existing folder",
        f"[^{_CONTROLS}]+",
        longest=RULE_MAX,
        default=".",
    ),
    "environment": _choice(
        "Packages that the plugin may import beside its own",
        '"isolated" for none, "host" for the application\'s, read-only',
        ("isolated", "host"),
        default="isolated",
    ),
    "instances": _count("Workers of the plugin, each for one call at a time", 16, 1),
    "description": _text("What the plugin does", "a text of at most 500 characters", longest=500, default=""),
}

_FILES: Final = (
    f"an absolute path, or {', '.join(f'${{{name}}}' for name in VARIABLES)} and what lies beneath, without *",
    rf"\*|(?:/|\$\{{(?:{'|'.join(VARIABLES)})\}}(?=/|$))[^*{_CONTROLS}]*",
)
_ADDRESSES: Final = (
    'a host, "*.suffix", an address, a network such as "10.0.0.0/8", with or without ":ports"; or "unix:" and a path',
    rf"[^\u0000-\u0020\u007f-\u009f]+|unix:(?:/|\$\{{)[^*{_CONTROLS}]*",
)

# What the targets are, what is legal beside "*", a rough pattern: the exact grammar is `permissions.parse_rule`'s.
_TARGETS: Final[Mapping[str, tuple[str, str, str]]] = {
    "fs.read": ("Files and folders to read", *_FILES),
    "fs.write": ("Files and folders to write", *_FILES),
    "net.connect": ("Network addresses to connect to", *_ADDRESSES),
    "net.listen": ("Network addresses to listen on", *_ADDRESSES),
    "env": (
        "Environment variables to see",
        "the name of a variable, or a prefix and one * at its end",
        r"\*|[^=*\u0000-\u0020\u007f-\u009f]+\*?",
    ),
    "run": ("Programs to run", "the absolute path of one program, without *", rf"\*|/[^*{_CONTROLS}]*"),
    "sys": ("Facts about the system to ask for", f"one of {', '.join(SYS_NAMES)}", ""),
    "native": (
        "Packages whose compiled extensions may load",
        'the name of a package, "ctypes" for ctypes and cffi',
        r"\*|[A-Za-z0-9_][A-Za-z0-9_.-]*",
    ),
    "host": (
        "Functions of the application to call",
        'a dotted name such as "storage.get", or "storage.*"',
        rf"\*|{_DOTTED}(?:\.\*)?",
    ),
}


def _entries(kind: str, *, deny: bool = False) -> Entries:
    description, legal, pattern = _TARGETS[kind]
    legal += '; or "*" as the only entry'
    target = _text(description, legal, pattern, longest=RULE_MAX)
    if kind == "sys":
        target = _choice(description, legal, ("*", *SYS_NAMES))
    fields: dict[str, Node] = {
        "target": target,
        "reason": _text("Why, for whoever grants it", "a text of at most 500 characters", longest=500, default=""),
        "optional": _flag("Whether the plugin does without it where it is not granted"),
    }
    if kind == "run" and not deny:
        form: Schema = {
            "type": "array",
            "maxItems": _argv.ITEMS_MAX,
            "items": {"type": "string", "pattern": _argv.PATTERN},
        }
        fields["argv"] = Scalar(description="Its arguments", legal=_argv.LEGAL, read=_argv.parse, form=form)
    if kind.startswith("net."):
        fields["private"] = _flag("Whether private, loopback and link-local addresses are meant too")
    return Entries(entry=Table(description=description, fields=fields, required=("target",)))


def _kinds(*, deny: bool = False) -> dict[str, Node]:
    """Return the kinds as TOML nests them: `fs.read` is the key `read` in the table `fs`."""
    found = {kind: _entries(kind, deny=deny) for kind in KINDS}
    nested: dict[str, Node] = {}
    for kind in KINDS:
        group = kind.partition(".")[0]
        members = {name.partition(".")[2]: node for name, node in found.items() if name.startswith(f"{group}.")}
        nested[group] = Table(description=f"Permissions of {group}", fields=members) if members else found[kind]
    return nested


LIMITS: Final[Mapping[str, Scalar]] = {
    "memory": _size("Memory of the worker", "256 MiB"),
    "call_timeout": _duration("Time for one call", "5 s"),
    "start_timeout": _duration("Time for the worker to start", "10 s"),
    "cpu_time": _duration("Processor time for one call", "30 s"),
    "open_files": _count("Open files", 1 << 20, 64),  # the usual fs.nr_open, proc_sys_fs(5)
    "file_size": _size("Size of one file written", "64 MiB"),
    "write_size": _size("Growth of all writable grants together", "256 MiB"),
    "write_files": _count("Files and folders created in all writable grants together", 10**9, 5000),
    "threads": _count("Threads of the worker", 1 << 22, 32),  # the kernel's limit of kernel.pid_max, proc_sys_kernel(5)
    "result_size": _size("Size of one result", "16 MiB"),
}

DOCUMENT: Final = Table(
    description="What a plugin is and what it requests of the application that loads it",
    fields={
        "schema": _count("Version of this format", 1),
        "plugin": Table(
            description="Who the plugin is and where its code lies",
            fields=_PLUGIN_KEYS,
            required=("name", "version", "project"),
        ),
        "permissions": Table(
            description="What the plugin requests; absent or [] is nothing",
            fields=_kinds()
            | {"deny": Table(description="What is never allowed, whatever else is", fields=_kinds(deny=True))},
        ),
        "functions": Names(
            description="Functions of a plain library that serve as hooks; they take the place of an entry",
            name=_text(
                "Name of the hook",
                "an ASCII identifier that does not begin with an underscore and is no keyword of Python",
                "[A-Za-z][A-Za-z0-9_]{0,99}",
            ),
            value=_text("The function", '"module:callable", each a dotted name', f"{_DOTTED}:{_DOTTED}", longest=200),
        ),
        "limits": Table(description="What the plugin may use up; the operator can allow less", fields=LIMITS),
    },
    required=("schema", "plugin"),
)


def json_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a manifest, as `manifests/plughold.schema.json` holds it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Plughold manifest",
        **DOCUMENT.schema(),
        "oneOf": [{"properties": {"plugin": {"required": ["entry"]}}}, {"required": ["functions"]}],
    }
