"""Unmodified clients in real workers: they work where a grant leads, and elsewhere fail at once and reach nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import captured_network
import pytest
from client_code import CLIENTS
from client_peers import Certificate, Postgres, Web, certificate

import host
from host.run.broker import Broker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAYS: Final = ["walled", "confined", "confined, sockets replaced"]
"""How the broker gets at a socket: by a new one, by a duplicate, and by a new one where the worker sees the network."""
AT_ONCE: Final = 30.0
"""Seconds within which a refusal is known: no client waits for a timeout of its own."""
LIMITS: Final = {"memory": "1 GiB", "threads": 128, "call_timeout": "60 s"}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def databases(authority: Certificate) -> Iterator[dict[str, Any]]:
    """By scheme: one server, and another that nobody is granted, which both take TLS or not."""
    with contextlib.ExitStack() as made:
        servers = []
        for _ in range(2):
            servers.append(Postgres(authority))
            made.callback(servers[-1].close)
        yield {"http": tuple(servers), "https": tuple(servers)}


@pytest.fixture
def webs(authority: Certificate) -> Iterator[dict[str, tuple[Web, Web]]]:
    """By scheme: a server that is granted, and one that is not."""
    with contextlib.ExitStack() as made:
        servers = {}
        for scheme, secure in (("http", None), ("https", authority)):
            servers[scheme] = Web(secure=secure), Web(secure=secure)
            for server in servers[scheme]:
                made.callback(server.close)
        yield servers


@pytest.fixture(params=WAYS)
def start(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, attacker: Any, must_work: Any
) -> Callable[..., Any]:
    """``start(**options of plugin_from)``: an attacker whose sockets the broker gets at in one of the ways."""
    if request.param == "confined, sockets replaced":
        serve = Broker.serve
        monkeypatch.setattr(Broker, "serve", lambda self, policy, **_: serve(self, policy, replace=True))

    def start(**options: Any) -> Any:
        try:
            return attacker(tier=request.param.partition(",")[0], **options)
        except host.LockdownUnavailable as missing:
            must_work(False, str(missing))

    return start


@pytest.fixture
def peers(request: pytest.FixtureRequest, client: str) -> dict[str, tuple[Any, Any]]:
    CLIENTS[client].permissions()
    found: dict[str, tuple[Any, Any]] = request.getfixturevalue("databases" if "psycopg" in client else "webs")
    return found


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_works_inside_its_grant_and_fails_cleanly_elsewhere(
    start: Callable[..., Any], authority: Certificate, peers: dict[str, tuple[Any, Any]], client: str
) -> None:
    granted = [f"{name}:{peers[scheme][0].port}" for name in ("127.0.0.1", "localhost") for scheme in peers]
    rules = {"net.connect": list(dict.fromkeys(granted)), "fs.read": [authority.file]}
    worker = start(permissions=rules | CLIENTS[client].permissions(), limits=LIMITS, **CLIENTS[client].options())
    code = CLIENTS[client].code
    for scheme, (inside, outside) in peers.items():
        met = inside.met, outside.met
        for name in ("127.0.0.1", "localhost"):
            assert worker.run(code, name=name, port=inside.port, scheme=scheme, ca=authority.file) == "hello"
        assert (inside.met, outside.met) == (met[0] + 2, met[1])
        for name in ("127.0.0.1", "localhost", "elsewhere.example"):
            began = time.monotonic()
            kind, _, _, text = worker.attempt(code, name=name, port=outside.port, scheme=scheme, ca=authority.file)
            assert time.monotonic() - began < AT_ONCE
            assert kind in CLIENTS[client].errors, text
        assert (inside.met, outside.met) == (met[0] + 2, met[1])


@pytest.mark.parametrize("client", ["urllib", "requests", "httpx", "aiohttp", "pycurl"])
def test_a_redirect_leads_no_client_to_another_address(start: Callable[..., Any], client: str) -> None:
    """Nor to one on the granted port that the granted name has not resolved to."""
    permissions = CLIENTS[client].permissions()
    elsewhere = Web(address="127.0.0.2")
    location = f"http://127.0.0.2:{elsewhere.port}/"
    answer = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    inside = Web(answer=answer.encode(), port=elsewhere.port)
    try:
        permissions["net.connect"] = [f"localhost:{inside.port}"]
        worker = start(permissions=permissions, limits=LIMITS, **CLIENTS[client].options())
        names = {"name": "localhost", "port": inside.port, "scheme": "http", "ca": ""}
        kind, _, _, text = worker.attempt(CLIENTS[client].code, **names)
        assert kind in CLIENTS[client].errors, text
        assert (inside.met, elsewhere.met) == (1, 0)
    finally:
        inside.close()
        elsewhere.close()


def test_not_one_packet_goes_where_no_grant_leads(tmp_path: Path, must_work: Any) -> None:
    """Not a SYN, not a question to a name server: every client tries in a network namespace of its own, and all that
    passes there is captured."""
    unshare = shutil.which("unshare")
    if os.getuid() != 0 or unshare is None:
        pytest.skip("captures as root, with unshare(1)")
    tests = Path(captured_network.__file__).parent
    done = subprocess.run(
        [unshare, "--net", "--mount", sys.executable, "-m", "captured_network", str(tmp_path), "walled", "confined"],
        check=False, cwd=tests, env=os.environ | {"PYTHONPATH": str(tests.parent)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    must_work("unshare failed" not in done.stderr, "network and mount namespaces for root")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {row[4] for row in found["attempts"]} == {True, False}
    assert [row for row in found["attempts"] if row[4] != row[5]] == []
    server, names = f"tcp {captured_network.GRANTED}:80", f"udp {captured_network.NAME_SERVER}:53"
    assert found["captured"] == [server, names]
    assert found["asked"] == [captured_network.NAME]
    must_work(not found["missing"], "; ".join(found["missing"]))
