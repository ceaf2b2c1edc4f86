"""Waiting for a platform that starts: asking must not take the processor away from what is waited for."""

from __future__ import annotations

import contextlib
import errno
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from diycloud.core import probe
from diycloud.core.certificates import ensure_certificates
from diycloud.system import Local


class Clock:
    """Time that passes by sleeping and asking alone."""

    def __init__(self) -> None:
        self.now = self.asked = 0.0
        self.times = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def ask(self, seconds: float) -> OSError:
        """Take so long to find out that nothing answers."""
        self.now += seconds
        self.asked += seconds
        self.times += 1
        return ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


@pytest.mark.parametrize(("seconds", "least", "share"), [(0.001, 250, 0.01), (0.1, 50, 0.11), (3.0, 7, 0.45)])
def test_asking_takes_a_small_part_of_the_wait(
    monkeypatch: pytest.MonkeyPatch, seconds: float, least: int, share: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(probe, "time", clock)
    monkeypatch.setattr(probe, "ask", lambda *_: clock.ask(seconds))
    fault = probe.probe(Path("/none"), "name", 443, Path("/none"), wait=60)
    assert fault and "(Connection refused)" in fault.message and "`diycloud up`" in fault.hint
    assert clock.times >= least, "and yet it is asked often"
    assert clock.asked <= share * clock.now
    assert clock.now < 70


# -- the words, of real sockets and certificates


class Answering(threading.Thread):
    """Nginx with a certificate and one status for everything, or the server, on a Unix socket."""

    def __init__(self, line: socket.socket, status: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(daemon=True)
        self.line, self.status, self.tls = line, status, tls

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self.line.accept()
                with plain, contextlib.suppress(OSError):
                    one = self.tls.wrap_socket(plain, server_side=True) if self.tls else plain
                    with one:
                        one.recv(4096)
                        one.sendall(f"HTTP/1.1 {self.status} x\r\nContent-Length: 0\r\n\r\n".encode())


class Place:
    """Where a platform would answer: its socket, its port, its certificates (for the name cloud.test)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.open = folder, list[socket.socket]()
        ensure_certificates(Local(), folder, ["cloud.test"], datetime.now(UTC))
        self.port = 1  # nobody's

    def server(self, status: int = 200) -> None:
        line = socket.socket(socket.AF_UNIX)
        line.bind(str(self.folder / "s"))
        self._answer(line, status, None)

    def nginx(self, status: int = 200) -> None:
        line = socket.socket()
        line.bind(("127.0.0.1", 0))
        self.port = line.getsockname()[1]
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        self._answer(line, status, tls)

    def _answer(self, line: socket.socket, status: int, tls: ssl.SSLContext | None) -> None:
        line.listen()
        self.open.append(line)
        Answering(line, status, tls).start()

    def said(self, name: str = "cloud.test", **hub: str) -> probe.Fault | None:
        return probe.probe(self.folder / "s", name, self.port, self.folder / "ca.crt", wait=0, **hub)


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as folder:
        made = Place(Path(folder))
        yield made
        for line in made.open:
            line.shutdown(socket.SHUT_RDWR)
            line.close()


def test_all_is_well(place: Place) -> None:
    place.server()
    place.nginx()
    assert place.said() is None and place.said(hub="/jupyter/hub/health") is None


def test_who_does_not_answer_is_named_with_what_to_do(place: Place) -> None:
    fault = place.said()
    assert fault and (fault.part, "No such file" in fault.message, "`diycloud up`" in fault.hint) == (
        "portal",
        True,
        True,
    )
    place.server()
    fault = place.said()
    assert fault and fault.message == "Nothing answers for cloud.test at port 1 (Connection refused)."


def test_what_the_server_says_but_its_health(place: Place) -> None:
    place.server(500)
    fault = place.said()
    assert fault and "(it answers 500)" in fault.message


@pytest.mark.parametrize(
    ("status", "portal", "hub"),
    [
        (503, "Behind Nginx the server does not answer (Nginx says 503).",
         "The notebooks' hub does not answer (Nginx says 503)."),
        (404, "What answers for cloud.test at port {0} is something else of Nginx's (status 404).",
         "What answers for cloud.test at port {0} is something else of Nginx's (status 404)."),
    ],
)  # fmt: skip
def test_what_nginx_says_of_either(
    place: Place, monkeypatch: pytest.MonkeyPatch, status: int, portal: str, hub: str
) -> None:
    place.server()
    place.nginx(status)
    fault = place.said()
    assert fault and (fault.part, fault.message) == ("portal", portal.format(place.port))
    assert "`diycloud install`" in fault.hint
    asked = probe.ask
    monkeypatch.setattr(probe, "ask", lambda line, path=probe.PATH: 200 if path == probe.PATH else asked(line, path))
    fault = place.said(hub="/jupyter/hub/health")
    assert fault and (fault.part, fault.message) == ("notebooks", hub.format(place.port))
    assert "`diycloud jupyter setup`" in fault.hint


def test_a_certificate_that_lacks_the_name_and_one_of_others(place: Place) -> None:
    place.server()
    place.nginx()
    fault = place.said(hub="/x", hub_name="notebooks.test")
    assert fault and (fault.part, fault.message) == (
        "notebooks", f"The certificate at port {place.port} does not name notebooks.test.",
    )  # fmt: skip
    assert "`diycloud jupyter setup`" in fault.hint
    (place.folder / "ca.crt").unlink()
    (place.folder / "ca.key").unlink()
    with tempfile.TemporaryDirectory() as folder:  # an authority that did not sign what is served
        ensure_certificates(Local(), Path(folder), ["cloud.test"], datetime.now(UTC))
        shutil.copy(Path(folder) / "ca.crt", place.folder / "ca.crt")
        fault = place.said()
    assert fault and "is not of the platform's own authority" in fault.message
    assert "another authority's cannot be used yet" in fault.hint
