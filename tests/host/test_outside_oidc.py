"""One platform signs people in with the account they have at another: real agent, server and account here, TLS in between."""

from __future__ import annotations

import json
import pwd
import re
import shutil
import ssl
from collections.abc import Iterator
from html import unescape
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from diycloud.core import doctor
from diycloud.core.installation import Installation
from diycloud.core.options import InstallOptions
from diycloud.system import Local
from tests.conftest import cannot_run
from tests.served import ADMIN, PASSWORD, Served
from tests.stack import SERVER_USER, Stack, ensure_account

pytestmark = pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "-")
OWN: dict[str, Any] = {"uid_min": 59_800, "uid_max": 59_899, "cgroup": "dtout"}
HERE, THEIRS = "cloud.test", "their own good phrase"
BACK = f"https://{HERE}/sign-in/with/far/back"
PEOPLE = ("dtoufar", "dtougone")


class Far(Served):
    """The other platform: an OpenID Connect provider on loopback."""

    def __init__(self, database: Path, prefix: Path) -> None:
        super().__init__(database, prefix, tls=True)
        config = prefix / "etc/diycloud/config.yaml"
        config.parent.mkdir(parents=True)
        config.write_text(f"server:\n  host_name: 127.0.0.1\n  https_port: {self.port}\n  strangers_per_minute: 0\n")

    def client(self) -> httpx.Client:
        assert self.certificates is not None
        context = ssl.create_default_context(cafile=str(self.certificates / "ca.crt"))
        return httpx.Client(verify=context, base_url=self.url, follow_redirects=False)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Send a request as the administrator there."""
        with self.client() as client:
            signed = client.post("/api/v1/auth/login", json={"username": ADMIN, "password": PASSWORD})
            headers = {"Authorization": f"Bearer {signed.json()['token']}"}
            done = client.request(method, f"/api/v1{path}", json=body, headers=headers)
            assert done.status_code < 300, done.text
            return done.json() if done.content else None

    def sign_in(self, url: str, username: str, password: str) -> httpx.Response:
        """Do in a browser what a person does there; returns the answer that leads away, or the page that does not."""
        with self.client() as client:
            page = client.get(url)
            for _ in range(8):
                if page.has_redirect_location:
                    target = page.headers["location"]
                    if urlsplit(target).netloc not in ("", urlsplit(self.url).netloc):
                        return page
                    page = client.get(target)
                elif found := re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', page.text):
                    page = client.get(unescape(found[1]))
                elif 'name="password"' in page.text:
                    if "alert" in page.text:
                        return page
                    page = self._send(client, page, {"username": username, "password": password})
                elif 'value="allow"' in page.text:
                    page = self._send(client, page, {"do": "allow"})
                else:
                    return page
        return page

    def _send(self, client: httpx.Client, page: httpx.Response, typed: dict[str, str]) -> httpx.Response:
        """Send the page's first form with its hidden fields."""
        for form in re.findall(r"<form.*?</form>", page.text, re.DOTALL):
            if any(f'name="{name}"' in form for name in typed):
                hidden = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form))
                action = re.search(r'<form[^>]* action="([^"]+)"', form)
                to = unescape(action[1]) if action else str(page.url)
                return client.post(to, data={**{k: unescape(v) for k, v in hidden.items()}, **typed})
        raise AssertionError(page.text)


@pytest.fixture(scope="module")
def far(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    with Far(empty_database, tmp_path_factory.mktemp("far") / "other") as running:
        for name in PEOPLE:
            sent = {"username": name, "password": THEIRS, "email": f"{name}@example.org", "full_name": f"The {name}"}
            running.ask("POST", "/users", {**sent, "must_change_password": False})
        yield running


@pytest.fixture(scope="module")
def stack(far: Far) -> Iterator[Stack]:
    issued = far.ask(
        "POST", "/apps", {"name": "near", "redirect_uris": [BACK], "scopes": ["openid", "profile", "email", "groups"]}
    )
    running = Stack(**OWN)
    assert far.certificates is not None
    shutil.copyfile(far.certificates / "ca.crt", running.prefix / "far.crt")
    (running.prefix / "secret").write_text(f"{issued['secret']}\n")
    (running.prefix / "secret").chmod(0o640)
    shutil.chown(running.prefix / "secret", "root", _server_group())
    provider = {
        "name": "far", "label": "The far cloud", "issuer": far.url, "client_id": issued["app"]["name"],
        "client_secret_file": f"{running.prefix}/secret", "ca_file": f"{running.prefix}/far.crt", "create": True,
        "scopes": ["openid", "profile", "email", "groups"], "groups": {"default": []}, "link": "email",
    }  # fmt: skip
    running._settings = f"server:\n  host_name: {HERE}\nsign_in: {json.dumps({'providers': [provider]})}\n"
    with running:
        yield running


def _server_group() -> int:
    ensure_account(SERVER_USER)
    return pwd.getpwnam(SERVER_USER).pw_gid


class Browser:
    """Somebody at the portal here, behind Nginx."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.cookies = stack, dict[str, str]()

    def ask(self, method: str, path: str, form: dict[str, str] | None = None) -> tuple[int, dict[str, str], str]:
        headers = {
            "X-Forwarded-For": "192.0.2.9", "Host": HERE, "Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items()),
            **({"Content-Type": "application/x-www-form-urlencoded"} if form is not None else {}),
        }  # fmt: skip
        status, answered, body = self.stack.http(
            method, path, urlencode(form) if form is not None else None, headers=headers
        )
        text = body.decode() if isinstance(body, bytes) else str(body)
        for name, morsel in SimpleCookie(answered.get("set-cookie", "")).items():
            self.cookies[name] = morsel.value
        return status, answered, text

    def leave(self) -> str:
        status, _, page = self.ask("POST", "/sign-in/with/far", {"csrf": "", "next": "/"})
        found = re.search(r'content="0;url=([^"]+)"', page)
        assert status == 200 and found, page
        return unescape(found[1])


def come_back(browser: Browser, answer: httpx.Response) -> tuple[int, dict[str, str], str]:
    where = urlsplit(answer.headers["location"])
    assert f"{where.scheme}://{where.netloc}{where.path}" == BACK
    return browser.ask("GET", f"{where.path}?{where.query}")


def test_somebody_from_there_gets_an_account_here(stack: Stack, far: Far) -> None:
    browser = Browser(stack)
    done = come_back(browser, far.sign_in(browser.leave(), "dtoufar", THEIRS))
    assert done[0] == 303 and done[1]["location"] == "/", done
    account = pwd.getpwnam("dtoufar")
    assert 59_800 <= account.pw_uid <= 59_899 and Path(account.pw_dir).is_dir()
    made = stack.json("user", "show", "dtoufar")
    assert (made["full_name"], made["email"], made["role"]) == ("The dtoufar", None, "user"), (
        "no address is confirmed there"
    )
    links = stack.json("user", "identities", "dtoufar")
    assert (links["identities"][0]["provider"], links["password"]) == ("far", False)
    assert "dtoufar" in stack.cli("audit", "list", "--action", "identity.link").stdout
    again = Browser(stack)
    assert come_back(again, far.sign_in(again.leave(), "dtoufar", THEIRS))[1]["location"] == "/"


def test_who_is_not_let_in_there_does_not_come_in_here(stack: Stack, far: Far) -> None:
    browser = Browser(stack)
    assert far.sign_in(browser.leave(), "dtougone", "wrong").status_code == 401
    far.ask("POST", "/users/dtougone/disable", {})
    assert far.sign_in(browser.leave(), "dtougone", THEIRS).status_code == 401
    with pytest.raises(KeyError):
        pwd.getpwnam("dtougone")


def test_a_code_is_taken_once_and_only_from_the_browser_it_was_for(stack: Stack, far: Far) -> None:
    browser, other = Browser(stack), Browser(stack)
    answer = far.sign_in(browser.leave(), "dtoufar", THEIRS)
    other.leave()
    assert come_back(other, answer)[1]["location"] == "/sign-in"
    kept = dict(browser.cookies)
    assert come_back(browser, answer)[1]["location"] == "/"
    browser.cookies = kept
    assert come_back(browser, answer)[1]["location"] == "/sign-in"
    query = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
    assert query["iss"] == far.url


def test_links_are_set_and_ended_by_command_line(stack: Stack, far: Far) -> None:
    stack.cli("user", "create", "dtouown", "--password", "-", input="their password here once\n")
    uuid = far.ask("GET", "/users/dtougone")["uuid"]
    linked = stack.cli("user", "link", "dtouown", "--provider", "far", "--subject", uuid)
    assert uuid in linked.stdout and not linked.stderr
    assert (
        "linked to somebody else"
        in stack.cli("user", "link", "dtouown", "--provider", "far", "--subject", "x", ok=6).stderr
    )
    far.ask("POST", "/users/dtougone/enable")
    browser = Browser(stack)
    done = come_back(browser, far.sign_in(browser.leave(), "dtougone", THEIRS))
    assert done[1]["location"] == "/" and "dtouown" in browser.ask("GET", "/")[2], "linked to one of another name"
    stack.cli("user", "unlink", "dtouown", "--provider", "far")
    assert browser.ask("GET", "/")[1]["location"].startswith("/sign-in"), "what was begun with it has ended"
    assert "not linked" in stack.cli("user", "unlink", "dtouown", "--provider", "far", ok=5).stderr
    told = stack.cli("user", "link", "dtouown", "--provider", "other", "--subject", "x")
    assert "no provider other in the settings yet" in told.stderr


def test_doctor_asks_the_provider_and_looks_at_the_secret(stack: Stack, far: Far) -> None:
    here = Installation(Local(), InstallOptions(prefix=str(stack.prefix)))
    found = list(doctor._outside(here))
    assert [(check.name, check.result) for check in found] == [("provider far", "ok")], found
    (stack.prefix / "secret").chmod(0o600)
    assert any(check.result == "fail" and "cannot read" in check.detail for check in doctor._outside(here))
    (stack.prefix / "secret").chmod(0o640)
