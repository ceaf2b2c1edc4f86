"""The platform with TLS under an address of its own, people with a browser, and applications of others that sign them in."""

from __future__ import annotations

import html
import re
import ssl
from types import TracebackType
from urllib.parse import urljoin

import httpx

from tests.browser.front import ADMIN, ADMIN_ONE_TIME, ADMIN_PASSWORD, Front
from tests.stack import Stack
from tests.waiting import free_port

PASSWORD = "violet comet marble otter"
_REFRESH = re.compile(r'http-equiv="refresh" content="0;url=([^"]+)"')


class Bed:
    """A stack behind Nginx whose settings name the address it has. Users: uid range 57000–57499."""

    def __init__(self) -> None:
        self.port = free_port()
        settings = f"server:\n  host_name: 127.0.0.1\n  https_port: {self.port}\n"
        self.stack = Stack(uid_min=57_000, uid_max=57_499, cgroup="dtoidc", settings=settings)
        self.secrets: dict[str, str] = {}

    def __enter__(self) -> Bed:
        self.stack.__enter__()
        try:
            self.front = Front(self.stack, self.port)
            self.front.__enter__()
        except BaseException:
            self.stack.__exit__()
            raise
        self.url, self.authority = self.front.url, str(self.front.folder / "ca.crt")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.front.__exit__()
        self.stack.__exit__()

    def app(self, name: str, *words: str) -> str:
        """Make an application by the command line; returns its secret."""
        made = self.stack.json("app", "create", name, "--trusted", *words)
        self.secrets[name] = made["secret"]
        return str(made["secret"])

    def user(self, name: str, *words: str) -> None:
        self.stack.cli("user", "create", name, "--password", "-", "--memory", "64", *words, input=f"{PASSWORD}\n")

    def browser(self) -> Browser:
        return Browser(self)


class Browser:
    """Somebody with a browser: cookies, redirects, pages that go on by themselves, and the sign-in form."""

    def __init__(self, bed: Bed) -> None:
        context = ssl.create_default_context(cafile=bed.authority)
        self._bed = bed
        self.http = httpx.Client(verify=context, timeout=30)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def go(self, url: str, **more: object) -> httpx.Response:
        """Open an address and go on where it leads, but for forms."""
        answer = self.http.get(url, **more)
        for _ in range(25):
            found = _REFRESH.search(answer.text) if answer.status_code == 200 else None
            there = answer.headers.get("location") or (html.unescape(found[1]) if found else None)
            if there is None:
                return answer
            answer = self.http.get(urljoin(str(answer.url), there))
        raise AssertionError(f"it goes round and round: {answer.url}")

    def sign_in(self, page: httpx.Response, name: str, password: str = PASSWORD) -> httpx.Response:
        """Fill in the sign-in page that an address led to, and go on."""
        assert page.url.path == "/sign-in", (page.url, page.text[:500])
        fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text))
        data = {key: html.unescape(value) for key, value in fields.items()} | {"username": name, "password": password}
        answer = self.http.post(str(page.url.copy_with(query=None)), data=data, headers={"origin": self._bed.url})
        assert answer.status_code == 303, answer.text[:2000]
        return self.go(urljoin(str(answer.url), answer.headers["location"]))


__all__ = ["ADMIN", "ADMIN_ONE_TIME", "ADMIN_PASSWORD", "PASSWORD", "Bed", "Browser"]
