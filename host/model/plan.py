"""From what a plugin effectively may to what a worker is started with: the audit hook's tables, the kernel's rules,
the environment. Pure: the file system is asked through arguments.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from sandbox_worker.messages import RESOLVE_PREFIX
from sandbox_worker.permissions import IMPLIED_ENV, SYS_NAMES, UNIX, Rule, decide, path_prefixes, path_verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from host.model.grants import Effective
    from host.model.manifest import Limits

    Table = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]

FILE_KINDS: Final = ("fs.read", "fs.write")
NET_KINDS: Final = ("net.connect", "net.listen")
NAMES: Final = "names"
FILES_BROKERED: Final = frozenset(("metadata", "locks"))
HANDED: Final = "handed"
_LETTERS: Final = {"fs.read": "r", "fs.write": "w"}
SPECIAL_TREES: Final = ("/proc", "/sys", "/dev")
"""Never reached through a rule for a directory above them."""

_SPECIAL: Final = tuple(f"{tree}/" for tree in SPECIAL_TREES)

SLACK: Final = 64 << 20
"""Private memory, in bytes, that a worker may map beyond its `memory` limit: interpreter, loader, thread stacks. The
limit itself is watched as resident memory from outside."""

SYS_FILES: Final = {
    "hostname": ("/proc/sys/kernel/hostname", "/etc/hostname"),
    "osRelease": ("/proc/sys/kernel/osrelease", "/proc/version"),
    "osUptime": ("/proc/uptime",),
    "loadavg": ("/proc/loadavg",),
    "systemMemoryInfo": ("/proc/meminfo",),
    "cpus": ("/proc/cpuinfo", "/sys/devices/system/cpu"),
}
"""What a name of `sys` lets a plugin read: where proc(5) and libc find the answer (getloadavg(3), get_nprocs(3))."""

_OWN_DESCRIPTORS: Final = 6
_TIMERS: Final = 256
_STACK: Final = 8 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    """What one worker reads beside its grant: absolute, resolved paths.

    `path` goes first on the worker's sys.path and is readable; `readable` is what else this worker may read unasked,
    `devices` what of it lies in /dev, `hidden` what in it stays hidden unless a rule says otherwise.
    """

    path: tuple[str, ...]
    readable: tuple[str, ...]
    devices: tuple[str, ...]
    hidden: tuple[str, ...]


def hook_table(kind: str, effective: Effective, spelled: Iterable[Rule], places: Places) -> Table:
    """(allow, special, deny) prefixes of `kind` for `permissions.path_verdict`.

    `spelled` are the same rules as the plugin spells them, before links were resolved: the text is judged by the hook,
    the object by the kernel.
    """
    rules = (*effective.allow.get(kind, ()), *spelled)
    allow, special = path_prefixes(rules)
    deny = _joined(path_prefixes(effective.deny.get(kind, ())))
    if kind == "fs.read":
        hidden = (p for p in places.hidden if path_verdict(p, allow, special, ()) != 1 and not _reaches_into(p, allow))
        deny += prefixes(hidden)
        allow += prefixes((*places.path, *places.readable))
        special += prefixes(places.devices)
        if NAMES in network(effective):
            special += (RESOLVE_PREFIX,)
    else:
        special += ("/dev/null/",)
    return _unique(allow), _unique(special), _unique(deny)


def _reaches_into(folder: str, allowed: tuple[str, ...]) -> bool:
    return any(prefix.startswith(folder + "/") for prefix in allowed)


def _joined(pair: tuple[tuple[str, ...], tuple[str, ...]]) -> tuple[str, ...]:
    return pair[0] + pair[1]


def prefixes(paths: Iterable[str]) -> tuple[str, ...]:
    """What each path, with a slash at its end, and all paths beneath it begin with."""
    return tuple([path.rstrip("/") + "/" for path in paths])


def _unique(found: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found))


def kernel_rules(
    effective: Effective,
    readable: Iterable[str],
    children: Callable[[str], Iterable[str] | None],
    covered: Collection[str] = (),
) -> list[tuple[str, str]]:
    """Landlock rules (path, access) for one plugin; access is a string of r, w and l (listing only).

    Landlock only adds, so a deny inside an allowed folder becomes rules for everything else in it: there a new name is
    refused, and names stay listable (docs/tiers.md). `children` lists a folder's entries as absolute paths, or None
    where it is no folder. `covered` are paths that something else keeps out of the folders around them (`model.view`).
    """
    found: dict[str, str] = {}
    for kind, paths in granted_paths(effective, readable).items():
        deny = prefixes(denied_paths(effective, kind))
        in_special, elsewhere = _Holes(deny, covered), _Holes(deny + _SPECIAL, covered)
        for path in paths:
            holes = in_special if is_special(path) else elsewhere
            for granted, right in _carve(path, _LETTERS[kind], holes, children):
                found[granted] = found.get(granted, "") + right
    return [(path, rights if len(rights) == 1 else "".join(sorted({*rights}))) for path, rights in found.items()]


def begins_later(effective: Effective, rules: Iterable[tuple[str, str]], path: str) -> bool:
    """Whether a rule allows something at `path` that none of the `rules` of `kernel_rules` does: as a rule can't name
    what was not there at the start, a new entry beside a denied one."""
    at_start = tuple(rules)
    return any(
        decide(kind, effective.allow.get(kind, ()), effective.deny.get(kind, ()), path).allowed
        and not any(covers(denied, path) for denied in denied_paths(effective, kind))
        and not any(letter in access and covers(granted, path) for granted, access in at_start)
        for kind, letter in _LETTERS.items()
    )


def granted_paths(effective: Effective, readable: Iterable[str]) -> dict[str, list[str]]:
    """The allowed paths of each file kind before any deny, with what else is readable unasked."""
    found = {kind: [_path(rule) for rule in effective.allow.get(kind, ())] for kind in FILE_KINDS}
    found["fs.read"] += readable
    return found


def denied_paths(effective: Effective, kind: str) -> list[str]:
    """What is denied of a file kind. Not readable is not writable: who may rename or replace it could read it then."""
    kinds = FILE_KINDS if kind == "fs.write" else (kind,)
    return [_path(rule) for each in kinds for rule in effective.deny.get(each, ())]


def _path(rule: Rule) -> str:
    return "/" if rule.text == "*" else rule.text


class _Holes:
    """What is denied, as prefixes, and the folders in which some of it lies that is not covered, as prefixes too."""

    __slots__ = ("around", "prefixes")

    def __init__(self, denied: tuple[str, ...], covered: Collection[str]) -> None:
        self.prefixes = denied
        carved = [prefix.split("/") for prefix in denied if prefix[:-1] not in covered]
        self.around = {"/".join(parts[:end]) + "/" for parts in carved for end in range(1, len(parts))}


def _carve(
    path: str, access: str, holes: _Holes, children: Callable[[str], Iterable[str] | None]
) -> Iterable[tuple[str, str]]:
    """`path` without the holes in it; those that are covered may stay in a rule for a folder above."""
    inside = path.rstrip("/") + "/"
    if inside.startswith(holes.prefixes):
        return
    if inside not in holes.around:
        yield path, access
        return
    if access == "r":
        yield path, "l"
    for child in children(path) or ():
        yield from _carve(child, access, holes, children)


def covers(outer: str, inner: str) -> bool:
    """Whether `inner` is the path `outer` or lies beneath it."""
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


def reaches(granted: str, path: str) -> bool:
    """Whether a rule for `granted` is about `path` at all, denies left aside."""
    return covers(granted, path) and (is_special(granted) or not is_special(path))


def is_special(path: str) -> bool:
    """Whether `path` is one of the special trees or lies in one."""
    return f"{path}/".startswith(_SPECIAL)


def allows(table: Table, path: str) -> bool:
    """Whether the hook will let `path` pass."""
    return path_verdict(path, *table) == 1


def sys_names(effective: Effective) -> list[str]:
    """The names of `sys` that are granted, one by one."""
    allow, deny = effective.allow.get("sys", ()), effective.deny.get("sys", ())
    return [name for name in SYS_NAMES if allow and decide("sys", allow, deny, name).allowed]


def implied(places: Places, granted: Iterable[str]) -> list[str]:
    """Prefixes of what this worker may read by no rule of its own; `granted` is what of it a `sys` grant opened."""
    opened = set(granted)
    return list(prefixes(path for path in (*places.path, *places.readable, *places.devices) if path not in opened))


def texts(rules: Mapping[str, tuple[Rule, ...]]) -> list[list[object]]:
    """Rules as a worker reads them again: [kind, text, private] each."""
    return [[rule.kind, rule.text, rule.private] for found in rules.values() for rule in found]


def environment(effective: Effective, available: Mapping[str, str], tmp: str | None) -> dict[str, str]:
    """The worker's whole environment: built from the rules, never filtered from the host's."""
    allow, deny = effective.allow.get("env", ()), effective.deny.get("env", ())
    found = {}
    for name in available if allow else IMPLIED_ENV:
        value = available.get(name)
        if name and value is not None and "\0" not in value and decide("env", allow, deny, name).allowed:
            found[name] = value
    if tmp is not None:
        found["TMPDIR"] = tmp
    return found | {"LC_CTYPE": "C.UTF-8"}


def network(effective: Effective) -> tuple[str, ...]:
    """What of the network the broker answers for the plugin (`walls.profile.BROKERED`); nothing without a grant."""
    connect, listen = (effective.allow.get(kind, ()) for kind in NET_KINDS)
    named = any(not rule.pattern.stem.startswith(("4:", "6:", UNIX)) for rule in connect)
    unix = any(rule.pattern.stem.startswith(UNIX) for rule in (*connect, *listen))
    wanted = (("connect", connect), ("listen", listen), (NAMES, named), ("unix", unix))
    return tuple(name for name, rules in wanted if rules)


def brokered(effective: Effective, tier: str) -> tuple[str, ...]:
    """All that the broker answers for the plugin at `tier`: the network, and for a plugin that may write, locks, and
    metadata where no mount holds it."""
    writes = tier != "hooked" and bool(effective.allow.get("fs.write"))
    files = FILES_BROKERED - ({"metadata"} if tier == "walled" else set())
    return (*network(effective), *(sorted(files) if writes else ()))


def broker_policy(effective: Effective) -> dict[str, Any]:
    """The broker's rules for the plugin (`sandbox_worker.broker.policy`): of the network, request, grant and ceiling
    each for itself, as an address shows what a text does not."""

    def rows(rules: Iterable[Rule]) -> list[list[object]]:
        return [[rule.kind, rule.text, rule.private] for rule in rules]

    requested = [rule for kind in NET_KINDS for rule in effective.allow.get(kind, ())]
    deny = [rule for kind in (*NET_KINDS, *FILE_KINDS) for rule in effective.deny.get(kind, ())]
    return {
        "layers": [rows(layer) for layer in (requested, *effective.bounds)],
        "deny": rows(deny),
        "writes": rows(effective.allow.get("fs.write", ())),
    }


def network_tables(effective: Effective, spelled: Iterable[Rule] = ()) -> dict[str, list[object]]:
    """The audit hook's rules by kind, each [allow, deny] of [stem, exact, ranges of ports or None].

    `spelled` are the same rules as the plugin spells them, unix sockets by their links, as in `hook_table`.
    """
    spelled = tuple(spelled)

    def rows(rules: Iterable[Rule]) -> list[list[object]]:
        patterns = (rule.pattern for rule in rules)
        return [[p.stem, p.exact, p.ports and [list(pair) for pair in p.ports]] for p in patterns]

    def allowed(kind: str) -> tuple[Rule, ...]:
        resolved = effective.allow.get(kind, ())
        known = {rule.pattern for rule in resolved}
        return (*resolved, *(rule for rule in spelled if rule.kind == kind and rule.pattern not in known))

    return {kind: [rows(allowed(kind)), rows(effective.deny.get(kind, ()))] for kind in NET_KINDS}


def command_policy(effective: Effective) -> dict[str, Any]:
    """What the commands of the plugin may be and take together, as its keeper reads it (`walls.keeping`); empty without
    a grant. The allowed paths are a layer of their own: what was dropped since is no more in them."""
    allow, deny = effective.allow.get("run", ()), effective.deny.get("run", ())
    if not allow:
        return {}
    limits = effective.limits
    layers = (tuple((rule.text, None) for rule in allow), *effective.commands)
    return {
        "layers": [[[path, None if argv is None else list(argv)] for path, argv in layer] for layer in layers],
        "deny": [rule.text for rule in deny],
        "processes": limits.threads,
        "memory": limits.memory,
        "cpu": limits.cpu_time,
    }


def resource_limits(limits: Limits) -> dict[str, int]:
    """rlimits (setrlimit(2)) by name, soft and hard alike; sizes in bytes."""
    return {
        "core": 0,
        "sigpending": _TIMERS,  # timers and queued signals, which count for the user as a whole
        "data": limits.memory + SLACK,
        "as": 4 * limits.memory + (1 << 30),
        "nofile": limits.open_files + _OWN_DESCRIPTORS,
        "fsize": limits.file_size,
        "stack": _STACK,
    }


def settings(tables: Mapping[str, Table], places: Places, **fixed: Any) -> dict[str, Any]:
    """The INIT message's map (`sandbox_worker.boot` reads it)."""
    return {
        "read": [list(found) for found in tables["fs.read"]],
        "write": [list(found) for found in tables["fs.write"]],
        "path": list(places.path),
        **fixed,
    }
