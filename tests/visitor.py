"""A browser without a screen that goes by the portal's and the hub's pages, and a kernel as Lab's page uses it."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import secrets
import socket
import ssl
import time
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx


class Browser:
    """Follows redirects, keeps cookies and says what kind of request it makes, as browsers do.

    port: where a WebSocket of the address is reached from here, if that is not the address's own; patience: seconds that
    it may say nothing.
    """

    def __init__(self, url: str, client: httpx.Client, *, port: int = 0, patience: float = 60.0) -> None:
        self.url, self.client, self.patience = url, client, patience
        self.port = port or urlsplit(url).port or 443
        self.hops = 0

    def sign_in(self, name: str, password: str) -> httpx.Response:
        """Sign in at the portal's page; returns the page after it."""
        page = self.open("/sign-in")
        return self.submit(page, {"username": name, "password": password})

    def open(self, path: str, *, seconds: float = 60.0) -> httpx.Response:
        """Go to an address, by every redirect and every page that loads itself again, and return where that ends."""
        answer, self.hops = self._follow(self._send("GET", urljoin(self.url, path))), 0
        deadline = time.monotonic() + seconds
        while again := re.search(r'http-equiv="refresh" content="(\d+)(?:; ?url=([^"]*))?"', answer.text):
            if time.monotonic() > deadline:
                raise AssertionError(f"{answer.url} still loads itself again after {seconds} s:\n{answer.text[:2000]}")
            time.sleep(int(again[1]))
            target = urljoin(str(answer.url), (again[2] or "").replace("&amp;", "&"))
            answer = self._follow(self._send("GET", target))
        return answer

    def submit(self, page: httpx.Response, values: dict[str, str]) -> httpx.Response:
        """Send the first form of a page that posts, with its hidden values."""
        form = re.search(r'<form[^>]*method="post"[^>]*>.*?</form>', page.text, re.S)
        assert form is not None, page.text[:2000]
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', form[0]))
        action = re.search(r'action="([^"]*)"', form[0])
        target = urljoin(str(page.url), action[1].replace("&amp;", "&") if action else "")
        return self._follow(self._send("POST", target, data={**hidden, **values}))

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """Send a request as a page's script does, with the XSRF token of the cookies for that address; no redirects."""
        address = urljoin(self.url, path)
        token = self.cookie("_xsrf", path)
        fetch = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty"}
        return self.client.request(
            method, address, json=body, headers={**fetch, **({"X-XSRFToken": token} if token else {}), **headers}
        )

    def cookie(self, name: str, path: str) -> str:
        """Return the cookie of that name with the longest path that fits."""
        fit = [c for c in self.client.cookies.jar if c.name == name and path.startswith(c.path)]
        return max(fit, key=lambda c: len(c.path)).value or "" if fit else ""

    def _send(self, method: str, address: str, **more: Any) -> httpx.Response:
        fetch = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "document"}
        return self.client.request(method, address, headers={"Accept": "text/html,*/*;q=0.8", **fetch}, **more)

    def _follow(self, answer: httpx.Response) -> httpx.Response:
        for _ in range(20):
            if not answer.is_redirect:
                return answer
            self.hops += 1
            target = urljoin(str(answer.url), answer.headers["location"])
            method = answer.request.method if answer.status_code in (307, 308) else "GET"
            answer = self._send(method, target)
        raise AssertionError(f"redirected in a circle at {answer.url}")


class Kernel:
    """A kernel of somebody's server, over its REST API and WebSocket (RFC 6455), as Lab's page uses it."""

    def __init__(self, browser: Browser, base: str, known: str = "") -> None:
        """known: the id of a kernel that runs, to go on with; else one is started."""
        self._browser, self._base = browser, base
        if not known:
            made = browser.ask("POST", f"{base}api/kernels", {"name": "python3"})
            assert made.status_code == 201, made.text
        self.id = known or made.json()["id"]
        self._socket = self._connect()
        self._left = b""

    def run(self, code: str, seconds: float = 60.0) -> str:
        """Run a cell and return what it printed, with its result or error after it; also if the kernel ends by it."""
        asked = secrets.token_hex(8)
        header = {"msg_id": asked, "msg_type": "execute_request", "username": "", "session": asked, "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        self._send(
            json.dumps(
                {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
            ).encode()
        )
        said, deadline = "", time.monotonic() + seconds
        while time.monotonic() < deadline:
            told = json.loads(self._receive())
            kind, content = told["header"]["msg_type"], told["content"]
            if kind == "status" and content["execution_state"] in ("restarting", "dead"):
                return said
            if told["parent_header"].get("msg_id") != asked:
                continue
            if kind == "stream":
                said += content["text"]
            elif kind == "execute_result":
                said += content["data"]["text/plain"]
            elif kind == "error":
                said += f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                return said
        raise AssertionError(f"the cell still runs after {seconds} s; it printed {said!r}")

    def close(self) -> None:
        self._socket.close()

    def is_open(self, seconds: float) -> bool:
        """Tell whether the WebSocket is still open after so long."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(65536):
                    return False
        self._socket.settimeout(60)
        return True

    def _connect(self) -> ssl.SSLSocket:
        address = f"{self._base}api/kernels/{self.id}/channels"
        cookie = self._browser.client.build_request("GET", urljoin(self._browser.url, address)).headers.get(
            "cookie", ""
        )
        parts = urlsplit(self._browser.url)
        plain = socket.create_connection((parts.hostname or "", self._browser.port), self._browser.patience)
        context = ssl._create_unverified_context()
        line = context.wrap_socket(plain)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        line.sendall(
            f"GET {address} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Origin: {self._browser.url}\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-Fetch-Mode: websocket\r\nSec-Fetch-Site: same-origin\r\nCookie: {cookie}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head and (part := line.recv(1)):
            head += part
        if b" 101 " not in head.split(b"\r\n")[0]:
            line.close()
            raise AssertionError(head.decode())
        return line

    def _send(self, data: bytes, code: int = 1) -> None:
        length = len(data)
        size = (
            bytes([0x80 | length])
            if length < 126
            else b"\xfe" + length.to_bytes(2)
            if length < 65536
            else b"\xff" + length.to_bytes(8)
        )
        mask = secrets.token_bytes(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        self._socket.sendall(bytes([0x80 | code]) + size + mask + masked)

    def _receive(self) -> bytes:
        """Return the next message; answers pings."""
        message = b""
        while True:
            first, second = self._exactly(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(self._exactly(2 if length == 126 else 8))
            data, code = self._exactly(length), first & 0x0F
            if code == 9:
                self._send(data, 10)
            elif code == 8:
                raise AssertionError(f"the server closed the WebSocket: {data!r}")
            elif code in (0, 1, 2):
                message += data
                if first & 0x80:
                    return message

    def _exactly(self, length: int) -> bytes:
        while len(self._left) < length:
            part = self._socket.recv(65536)
            if not part:
                raise AssertionError("the WebSocket ended")
            self._left += part
        taken, self._left = self._left[:length], self._left[length:]
        return taken


def signed_value(cookie: str) -> str:
    """Return what is in a signed cookie of Tornado's, which anybody can read who has it."""
    fields = cookie.strip('"').split("|")[1:]  # the version; then each with its length in front
    return base64.b64decode(fields[3].partition(":")[2]).decode()
