"""What is not granted for reading is not read: not by Python, not by a C library, not by a link, not in a race."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any, Final

import pytest

from host import LockdownUnavailable

if TYPE_CHECKING:
    from pathlib import Path

TIERS: Final = ["walled", "confined", "filtered", "hooked"]

WAYS: Final = {
    "open": "result = open(path).read()",
    "bytes path": "result = open(path.encode()).read()",
    "os.open": "import os; result = os.read(os.open(path, os.O_RDONLY), 999).decode()",
    "io.FileIO": "import io; result = io.FileIO(path).read().decode()",
    "io.open_code": "import io; result = io.open_code(path).read().decode()",
    "pathlib": "import pathlib; result = pathlib.Path(path).read_text()",
    "opener": "import os; result = open('x', opener=lambda _, flags: os.open(path, flags)).read()",
    "O_PATH and back": (
        "import os; fd = os.open(path, os.O_PATH); result = open(f'/proc/self/fd/{fd}').read()"
    ),
    "descriptor of the folder": (
        "import os; fd = os.open(os.path.dirname(path), os.O_RDONLY); "
        "result = os.read(os.open(os.path.basename(path), os.O_RDONLY, dir_fd=fd), 999).decode()"
    ),
    "working folder": "import os; os.chdir(os.path.dirname(path)); result = open(os.path.basename(path)).read()",
    "fileinput": "import fileinput; result = next(iter(fileinput.input([path])))",
    "mmap": (
        "import mmap, os; fd = os.open(path, os.O_RDONLY); result = mmap.mmap(fd, 0, prot=mmap.PROT_READ)[:].decode()"
    ),
    "importing it": (
        "import importlib.machinery as m; result = m.SourceFileLoader('x', path).get_data(path).decode()"
    ),
    "reading it as configuration": "import configparser; c = configparser.ConfigParser(); c.read_file(open(path))",
    "sendfile": """
        import os
        a, b = os.pipe()
        os.sendfile(b, os.open(path, os.O_RDONLY), 0, 99)
        result = os.read(a, 99).decode()
    """,
}  # fmt: skip


@pytest.mark.parametrize("tier", TIERS)
def test_a_file_outside_the_grant_is_not_read(attacker: Any, places: Path, secret: str, tier: str) -> None:
    worker = attacker(permissions={"fs.read": [places / "granted"]}, tier=tier, minimum_tier="hooked")
    for way, code in WAYS.items():
        outcome = worker.attempt(code, path=places / "outside" / "secret.txt")
        assert secret not in str(outcome), way
        assert outcome[0] in ("PermissionDenied", "PermissionError"), (way, outcome)


def test_control_a_granted_file_is_read_in_every_way(attacker: Any, places: Path, secret: str) -> None:
    worker = attacker(permissions={"fs.read": [places / "outside"]})
    for way in WAYS.keys() - {"reading it as configuration", "O_PATH and back"}:
        assert worker.run(WAYS[way], path=places / "outside" / "secret.txt").strip() == secret, way


C_LIBRARIES: Final = {
    "SQLite's ATTACH": """
        import sqlite3
        c = sqlite3.connect(":memory:")
        c.execute("attach ? as stolen", (path,))
        result = c.execute("select value from stolen.t").fetchone()[0]
    """,
    "a URI of SQLite": """
        import sqlite3
        c = sqlite3.connect("file:" + path + "?mode=ro&immutable=1", uri=True)
        result = c.execute("select value from t").fetchone()[0]
    """,
    "SQLite's VFS by ATTACH of a URI": """
        import sqlite3
        c = sqlite3.connect("file::memory:", uri=True)
        c.execute("attach ? as stolen", ("file:" + path + "?immutable=1",))
        result = c.execute("select value from stolen.t").fetchone()[0]
    """,
}


def database(path: Path, value: str) -> Path:
    """A SQLite database that holds the value."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("create table t (value text)")
        connection.execute("insert into t values (?)", (value,))
    connection.close()
    return path


def test_a_database_outside_the_grant_is_not_read_by_c_code_that_raises_no_event(
    attacker: Any, places: Path, secret: str
) -> None:
    file = database(places / "outside" / "x.db", secret)
    worker = attacker(permissions={"fs.read": [places / "granted"]})
    for way, code in C_LIBRARIES.items():
        outcome = worker.attempt(code, path=file)
        assert secret not in str(outcome), way
        assert outcome[0] == "OperationalError", (way, outcome)


def test_control_a_granted_database_is_read_by_the_same_code(attacker: Any, places: Path, secret: str) -> None:
    file = database(places / "outside" / "x.db", secret)
    worker = attacker(permissions={"fs.read": [places / "outside"]})
    for way, code in C_LIBRARIES.items():
        assert worker.run(code, path=file) == secret, way


CERTIFICATES: Final = """
    import ssl
    context = ssl.create_default_context(cafile=path) if how else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    result = [context.load_verify_locations(path), len(context.get_ca_certs())][1]
"""


def test_openssl_opens_no_file_outside_the_grant(attacker: Any, places: Path) -> None:
    """The same code tells a file that it can't open (EACCES; hidden, ENOENT) from one that holds no certificate."""
    worker = attacker(permissions={"fs.read": [places / "granted"]})
    inside = worker.attempt(CERTIFICATES, path=places / "granted" / "open.txt", how=0)
    outside = worker.attempt(CERTIFICATES, path=places / "outside" / "secret.txt", how=0)
    assert inside[0] == "SSLError"
    hidden = worker.plugin.tier == "walled"
    assert outside[:3] == (["FileNotFoundError", "", 2] if hidden else ["PermissionError", "", 13])


MESSAGES: Final = """
    import _locale
    _locale.setlocale(_locale.LC_ALL, "C.UTF-8")
    import os
    os.environ["LANGUAGE"] = "xx"
    _locale.bindtextdomain("d", folder)
    result = _locale.dgettext("d", "question")
"""


def catalogue(folder: Path, answer: str) -> None:
    """A .mo file for the language xx that translates "question"."""
    target = folder / "xx" / "LC_MESSAGES" / "d.mo"
    target.parent.mkdir(parents=True)
    texts = [b"question", answer.encode()]
    head = [0x950412DE, 0, 1, 28, 36, 0, 44, len(texts[0]), 44, len(texts[1]), 44 + len(texts[0]) + 1]
    target.write_bytes(b"".join(n.to_bytes(4, "little") for n in head) + b"\0".join(texts) + b"\0")


def test_gettext_opens_no_catalogue_outside_the_grant(attacker: Any, places: Path, secret: str) -> None:
    catalogue(places / "outside", secret)
    worker = attacker(permissions={"fs.read": [places / "granted"]})
    assert worker.attempt(MESSAGES, folder=places / "outside") == "question"


def test_control_gettext_reads_a_granted_catalogue(attacker: Any, places: Path, secret: str) -> None:
    catalogue(places / "outside", secret)
    worker = attacker(permissions={"fs.read": [places / "outside"]})
    assert worker.attempt(MESSAGES, folder=places / "outside") == secret


LINKS: Final = {
    "to the file": ("../outside/secret.txt", ""),
    "to its folder": ("../outside", "/secret.txt"),
    "absolute": ("{outside}/secret.txt", ""),
    "and back by ..": ("../outside", "/../outside/secret.txt"),
}
"""What a link says, and what is asked for behind it."""


@pytest.mark.parametrize("tier", TIERS)
def test_a_link_that_leads_out_of_the_grant_is_not_followed(
    attacker: Any, places: Path, secret: str, tier: str
) -> None:
    worker = attacker(permissions={"fs.read": [places / "granted"]}, tier=tier, minimum_tier="hooked")
    for number, (kind, (target, path)) in enumerate(LINKS.items()):
        link = places / "granted" / f"link-{number}"
        link.symlink_to(target.format(outside=places / "outside"))
        outcome = worker.attempt("result = open(path).read()", path=f"{link}{path}")
        assert secret not in str(outcome), kind
        hidden = ("FileNotFoundError",) if tier == "walled" else ()
        assert outcome[0] in ("PermissionDenied", "PermissionError", *hidden), (kind, outcome)


def test_control_a_link_within_the_grant_is_followed(attacker: Any, places: Path) -> None:
    (places / "granted" / "link").symlink_to("open.txt")
    worker = attacker(permissions={"fs.read": [places / "granted"]})
    assert worker.run("result = open(path).read()", path=places / "granted" / "link") == "harmless"


RACE: Final = """
    import os, threading
    safe, link, spare = folder + "/open.txt", folder + "/link", folder + "/spare"
    stop = False
    def swap():
        while not stop:
            for target in (safe, path):
                os.symlink(target, spare)
                os.rename(spare, link)
    os.symlink(safe, link)
    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    for _ in range(3000):
        try:
            seen.add(open(link).read())
        except OSError as e:
            seen.add(type(e).__name__)
    stop = True
    thread.join()
    result = sorted(seen)
"""


def test_a_link_that_is_swapped_while_it_is_opened_never_leads_out(attacker: Any, places: Path, secret: str) -> None:
    grant = [places / "granted"]
    worker = attacker(permissions={"fs.read": grant, "fs.write": grant}, limits={"write_files": 100000})
    seen = worker.run(RACE, folder=places / "granted", path=places / "outside" / "secret.txt")
    assert secret not in str(seen)
    assert "harmless" in seen
    refused = "FileNotFoundError" if worker.plugin.tier == "walled" else "PermissionError"
    assert refused in seen, "the race never reached the kernel, so this proved nothing"


def test_a_hard_link_makes_no_way_in(attacker: Any, places: Path, secret: str) -> None:
    grant = [places / "granted"]
    worker = attacker(permissions={"fs.read": grant, "fs.write": grant})
    for code in ("import os; os.link(path, new)", "import os; os.link(path, new, follow_symlinks=False)"):
        assert worker.is_stopped(code, path=places / "outside" / "secret.txt", new=places / "granted" / "in")
    assert not (places / "granted" / "in").exists()


def test_a_deny_inside_an_allow_holds(attacker: Any, places: Path, secret: str) -> None:
    worker = attacker(permissions={"fs.read": [places]}, deny={"fs.read": [places / "outside"]})
    assert worker.run("result = open(path).read()", path=places / "granted" / "open.txt") == "harmless"
    for way, code in WAYS.items():
        outcome = worker.attempt(code, path=places / "outside" / "secret.txt")
        assert secret not in str(outcome), way
        assert outcome[0] in ("PermissionDenied", "PermissionError"), (way, outcome)


@pytest.mark.parametrize("tier", ["walled", "confined"])
@pytest.mark.parametrize("kind", ["fs.read", "fs.write"])
def test_a_denied_path_stays_denied_at_the_next_start(
    attacker: Any, places: Path, secret: str, must_work: Any, tier: str, kind: str
) -> None:
    """A rule is a path: who could move the folders around it would have its content under another one then."""
    granted, denied = [str(places)], places / "a" / "b" / "denied"
    denied.mkdir(parents=True)
    (denied / "secret.txt").write_text(secret)
    try:
        worker = attacker(
            permissions={"fs.read": granted, "fs.write": granted},
            deny={kind: [str(denied)]},
            tier=tier,
            minimum_tier=tier,
        )
    except LockdownUnavailable as e:
        must_work(False, str(e))
    for folder in ("a/b", "a"):
        move = "import os; os.rename(path, new)"
        assert worker.is_stopped(move, path=places / folder, new=places / "moved"), folder
        exchange = "import os; os.mkdir(new); os.replace(path, new)"
        assert worker.is_stopped(exchange, path=places / folder, new=places / f"new-{folder[-1]}"), folder
    assert (denied / "secret.txt").read_text() == secret
    beside = places / ("a" if tier == "walled" else "granted") / "new"
    assert worker.run("open(path, 'w').write('x'); result = open(path).read()", path=beside) == "x"


def test_a_deny_inside_an_allow_holds_against_c_code_too(attacker: Any, places: Path, secret: str) -> None:
    file = database(places / "outside" / "x.db", secret)
    near = database(places / "granted" / "x.db", "harmless")
    worker = attacker(permissions={"fs.read": [places]}, deny={"fs.read": [places / "outside"]})
    way = C_LIBRARIES["SQLite's ATTACH"]
    assert worker.run(way, path=near) == "harmless"
    assert secret not in str(worker.attempt(way, path=file))


SPECIAL: Final = [
    "/proc/{host}/environ", "/proc/{host}/cmdline", "/proc/{host}/maps", "/proc/{host}/mem", "/proc/{host}/fd",
    "/proc/1/environ", "/proc/self/environ", "/proc/self/mem", "/proc/self/maps", "/proc/self/root/etc/passwd",
    "/proc/self/fd", "/proc/thread-self/mem", "/proc/mounts", "/proc/version", "/proc/kallsyms",
    "/sys/kernel/vmcoreinfo", "/sys/class", "/dev/zero", "/dev/mem", "/dev/kmsg", "/dev/tty", "/dev/shm",
]  # fmt: skip


def test_a_rule_for_everything_reaches_no_special_tree(attacker: Any) -> None:
    """Whoever may read `*` may still not read other processes, the kernel or devices."""
    worker = attacker(permissions={"fs.read": ["*"]})
    code = (
        "import os; fd = os.open(path, os.O_RDONLY); result = os.listdir(fd) if os.path.isdir(path) else os.read(fd, 9)"
    )
    for pattern in SPECIAL:
        path = pattern.format(host=os.getpid())
        kind, _, number = worker.reason(code, path=path)
        assert kind in ("PermissionDenied", "PermissionError") or (number == 2 and not os.path.exists(path)), path


def test_control_a_rule_for_everything_reads_ordinary_files(attacker: Any, places: Path, secret: str) -> None:
    worker = attacker(permissions={"fs.read": ["*"]})
    assert worker.run("result = open(path).read()", path=places / "outside" / "secret.txt") == secret


def test_names_in_a_folder_outside_the_grant_are_not_listed(attacker: Any, places: Path) -> None:
    worker = attacker(permissions={"fs.read": [places / "granted"]})
    for call in ("os.listdir(path)", "list(os.scandir(path))", "next(os.walk(path, onerror=fail))"):
        code = f"import os\ndef fail(e): raise e\nresult = str({call})"
        assert "secret.txt" not in str(worker.attempt(code, path=places / "outside")), call
        assert "open.txt" in worker.run(code, path=places / "granted"), call


def test_what_may_only_be_written_is_not_read(attacker: Any, places: Path, secret: str) -> None:
    worker = attacker(permissions={"fs.write": [places / "outside"]})
    path = places / "outside" / "secret.txt"
    for code in ("result = open(path).read()", "result = open(path, 'r+').read()", WAYS["os.open"]):
        assert secret not in str(worker.attempt(code, path=path))


def test_the_hosts_own_files_are_not_read(attacker: Any, tmp_path: Path) -> None:
    """Neither the application's code nor what lies beside the plugin in other folders."""
    worker = attacker()
    for path in (os.path.abspath(__file__), os.path.expanduser("~"), tmp_path, tmp_path / "data", "/etc/passwd", "/"):
        assert worker.is_stopped("import os; os.open(path, os.O_RDONLY)", path=path)


def test_control_a_plugin_reads_its_own_folder_unasked(attacker: Any) -> None:
    worker = attacker()
    assert "def attempt" in worker.run("import os, plugin; result = open(plugin.__file__).read()")
