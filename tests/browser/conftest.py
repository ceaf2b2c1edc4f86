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
