"""Promises of logging: a plugin's records arrive as the application's, bounded, visible and paid for by the plugin."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from until import until

from host.service.records import LOGGER, Records
from sandbox_worker import messages

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE: Final = """
import os, sys
@hookimpl
def log(level, text, name="lib.part", arguments=()):
    import logging
    logging.getLogger(name).log(level, text, *arguments)
@hookimpl
def fail():
    import logging
    try: 1 / 0
    except ZeroDivisionError: logging.exception("it failed")
@hookimpl
def many(count):
    import logging
    for number in range(count): logging.warning("line %d", number)
@hookimpl
def denied_after(count):
    import logging
    for number in range(count): logging.warning("line %d", number)
    try: open("/etc/passwd")
    except PermissionError: pass
@hookimpl
def has_logging(): return "logging" in sys.modules
@hookimpl
def claim(data): os.write(5, data)
@hookimpl
def configured():
    import logging
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("x").info("once")
@hookimpl
def in_background():
    import logging, threading
    threading.Timer(0, logging.warning, ("late",)).start()
"""


@pytest.fixture
def plugin(plugin_from: Any) -> Any:
    """One that logs."""
    return plugin_from(SOURCE)


@pytest.fixture
def records(plugin: Any) -> Iterator[list[logging.LogRecord]]:
    """What arrives at the plugin's logger, from DEBUG on."""
    found: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    logger, handler = logging.getLogger(LOGGER + plugin.name), Keep()
    logger.addHandler(handler)
    level, logger.propagate = logger.level, False
    logger.setLevel(logging.DEBUG)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = True


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.CRITICAL, 25])
def test_a_record_arrives_with_its_call(plugin: Any, records: list[Any], level: int) -> None:
    plugin.call("log", level=level, text="%s of %d", arguments=["one", 2])
    [record] = records
    assert (record.levelno, record.getMessage()) == (level, "one of 2")
    assert (record.name, record.plugin_logger) == (f"host.plugin.{plugin.name}", "lib.part")


def test_below_info_nothing_crosses(plugin: Any, records: list[Any]) -> None:
    plugin.call("log", level=logging.DEBUG, text="detail")
    plugin.denials()
    assert records == []


def test_a_traceback_goes_with_its_record(plugin: Any, records: list[Any]) -> None:
    plugin.call("fail")
    assert records[0].getMessage().startswith("it failed\nTraceback")
    assert "ZeroDivisionError" in records[0].getMessage()


def test_logs_has_it_as_one_line_among_what_was_printed(plugin: Any) -> None:
    plugin.call("log", level=logging.WARNING, text="two\nlines")
    assert plugin.logs() == (r"WARNING lib.part: two\nlines",)


def test_a_text_is_never_a_format_of_the_hosts(plugin: Any, records: list[Any]) -> None:
    plugin.call("log", level=logging.WARNING, text="%s %(name)s {0} \x1b[2J\u202e")
    assert records[0].getMessage() == r"%s %(name)s {0} \x1b[2J\u202e"


def test_a_long_text_is_cut(plugin: Any, records: list[Any]) -> None:
    plugin.call("log", level=logging.WARNING, text="é" * 100_000, name="n" * 1000)
    assert 1000 < len(records[0].getMessage()) <= messages.LOG_LIMIT
    assert len(records[0].plugin_logger) <= 100


def test_logging_is_loaded_by_the_plugin_alone(plugin: Any) -> None:
    assert plugin.call("has_logging") is False


def test_a_configuration_of_the_plugins_doubles_nothing(plugin: Any, records: list[Any]) -> None:
    plugin.call("configured")
    assert [record.getMessage() for record in records] == ["once"]
    assert len(plugin.logs()) == 1


def test_a_flood_is_capped_and_its_losses_counted(plugin: Any, records: list[Any]) -> None:
    plugin.call("many", count=20_000)
    assert 0 < len(records) <= 1000
    until(lambda: plugin.call("log", level=logging.WARNING, text="later") or "lost" in records[-1].getMessage())


def test_a_flood_of_records_loses_no_denial(plugin: Any) -> None:
    plugin.call("denied_after", count=20_000)
    assert [record.permission.target for record in plugin.denials()] == ["/etc/passwd"]


def test_what_is_logged_between_calls_arrives_with_the_next(plugin: Any, records: list[Any]) -> None:
    plugin.call("in_background")
    until(lambda: plugin.call("has_logging") and records)
    assert records[0].getMessage() == "late"


@pytest.mark.parametrize(
    "claim", ["log ", "log x y", "log 999999999999999999999 a", "log -5 a", "log ٣ a", "log 30", "log 30 \x1b[2J"]
)
def test_whatever_is_claimed_is_a_record_of_a_legal_level(plugin: Any, records: list[Any], claim: str) -> None:
    plugin.call("claim", data=messages.event_record(claim, "text\x1b", False))
    plugin.logs()
    [record] = records
    assert 0 <= record.levelno <= logging.CRITICAL
    assert record.getMessage() == r"text\x1b"
    assert record.plugin_logger.isprintable()
    assert plugin.denials() == ()


def test_a_handler_that_raises_harms_nobody(plugin: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Bad(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            raise RuntimeError

    logger, handler = logging.getLogger(LOGGER + plugin.name), Bad()
    logger.addHandler(handler)
    try:
        plugin.call("log", level=logging.WARNING, text="x")
    finally:
        logger.removeHandler(handler)
    assert "a handler or filter raised" in caplog.text


def test_what_nobody_takes_is_bounded() -> None:
    records = Records("p")
    for _ in range(5000):
        records.add("40 x", "text")
    assert len(records.waiting) <= 1000


@given(st.text(max_size=120), st.text(max_size=4000))
def test_any_claim_makes_one_visible_line(claim: str, text: str) -> None:
    line = Records("p").add(claim, text)
    assert all(char.isprintable() or char in "\n\t" for char in line)
