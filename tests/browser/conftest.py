"""Chromium for the portal's tests, and the preview server they look at."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from diycloud.config import Paths
from tests.served import Served

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CHECKS = (Path(__file__).parent / "checks.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def browser() -> Iterator[sync_api.Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="session")
def preview() -> Iterator[str]:
    """The address of the preview, served from a thread."""
    from .preview import application

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(), log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    listener.close()


class Watched:
    """A page whose complaints are kept: console errors, refused content, crashed scripts, requests to other hosts."""

    def __init__(self, page: sync_api.Page, home: str) -> None:
        self.page, self.home = page, home
        self.complaints: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        page.on("request", self._request)

    def _console(self, message: sync_api.ConsoleMessage) -> None:
        told = message.type in ("error", "warning") or "Content Security Policy" in message.text
        if told and "Failed to load resource: the server responded" not in message.text:  # an error page has its status
            self.complaints.append(f"console: {message.text}")

    def _request(self, request: sync_api.Request) -> None:
        if not request.url.startswith((self.home, "data:", "about:")):
            self.complaints.append(f"outside request: {request.url}")

    def open(self, path: str) -> sync_api.Page:
        self.page.bring_to_front()
        self.page.goto(self.home + path)
        return self.page


@pytest.fixture
def watched(browser: sync_api.Browser, preview: str) -> Iterator[Watched]:
    """A page on a desk in the light, over the preview; its complaints fail the test."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    found = Watched(context.new_page(), preview)
    yield found
    context.close()
    assert found.complaints == []


@pytest.fixture
def served(empty_database: Path, tmp_path: Path) -> Iterator[Served]:
    """The application at https://localhost: a name, which passkeys need."""
    made = Served(empty_database, tmp_path / "server", tls=True)
    config = Paths(str(tmp_path / "server")).config
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f"server:\n  host_name: localhost\n  https_port: {made.port}\n")
    with made:
        yield made


def strict_page(browser: sync_api.Browser, url: str, *, scripts: bool) -> Iterator[sync_api.Page]:
    """The body of a fixture: a page of a browser at a desk; what it refuses by a Content-Security-Policy fails the test."""
    context = browser.new_context(
        ignore_https_errors=True, reduced_motion="reduce", base_url=url, viewport={"width": 1280, "height": 900},
        java_script_enabled=scripts,
    )  # fmt: skip
    refused: list[str] = []
    found = context.new_page()
    found.on("console", lambda message: refused.append(message.text) if "Content Security" in message.text else None)
    yield found
    context.close()
    assert refused == []


def look(page: sync_api.Page, name: str, *, but: str = "\0") -> None:
    """Hold a page to the law of all pages, at a desk in the light and on a small phone in the dark. but: what it may have."""
    for theme, width in (("light", 1280), ("dark", 320)):
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size({"width": width, "height": 800})
        assert [told for told in page.evaluate(CHECKS) if but not in told] == [], f"{name} {theme}"
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 900})
