"""Signing in at an application in Chromium: the sign-in form, consent, signing out, the administrator's pages."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.openid import CHALLENGE, VERIFIER
from tests.served import ADMIN, PASSWORD, Served

from .conftest import look, strict_page


class Application(http.server.BaseHTTPRequestHandler):
    """Somebody else's site: tells the browser what it was given."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(f"<h1>The application</h1><p id=referrer>{self.headers.get('referer', 'none')}</p>".encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def application() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=[True, False], ids=["scripts", "plain"])
def page(request: pytest.FixtureRequest, browser: Browser, served: Served) -> Iterator[Page]:
    """A browser; what it refuses by our Content-Security-Policy fails the test."""
    yield from strict_page(browser, f"https://localhost:{served.port}", scripts=request.param)


def sign_in(page: Page) -> None:
    page.get_by_label("User name").fill(ADMIN)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()


def make_application(page: Page, application: str, *, trusted: bool) -> str:
    """Make an application in the portal; returns its secret."""
    page.goto("/applications")
    page.get_by_role("link", name="New application").click()
    look(page, "new")
    page.get_by_label("Client ID").fill("wiki")
    page.get_by_label("Title").fill("Wiki of the lab")
    page.get_by_label("Redirect addresses").fill("http://evil.test/")
    page.get_by_role("button", name="Create application").click()
    expect(page.get_by_role("alert")).to_contain_text("must begin with https://")
    page.get_by_label("Redirect addresses").fill(f"{application}/back")
    page.get_by_label("Addresses after signing out").fill(f"{application}/bye")
    if trusted:
        page.get_by_label("People are not asked").check()
    page.get_by_role("button", name="Create application").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("is ready")
    look(page, "secret")
    secret = page.get_by_label("Client secret", exact=True).inner_text()
    assert len(secret) == 43
    return secret


def request(application: str, **more: str) -> str:
    asked = {
        "response_type": "code", "client_id": "wiki", "redirect_uri": f"{application}/back", "scope": "openid profile email",
        "state": "s", "code_challenge": CHALLENGE, "code_challenge_method": "S256", **more,
    }  # fmt: skip
    return f"/oidc/authorize?{urlencode(asked)}"


def redeem(page: Page, served: Served, application: str, secret: str) -> dict[str, str]:
    """Take the code that the browser brought to the application."""
    assert page.url.startswith(f"{application}/back?code=")
    form = {
        "grant_type": "authorization_code", "code": parse_qs(urlsplit(page.url).query)["code"][0], "client_id": "wiki",
        "redirect_uri": f"{application}/back", "code_verifier": VERIFIER, "client_secret": secret,
    }  # fmt: skip
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    url = f"https://localhost:{served.port}/oidc/token"
    with urllib.request.urlopen(url, urlencode(form).encode(), context=context) as answer:
        return dict(json.load(answer))


def test_a_sign_in_that_is_asked_for(page: Page, served: Served, application: str) -> None:
    page.goto("/sign-in")
    sign_in(page)
    secret = make_application(page, application, trusted=False)
    page.context.clear_cookies()
    page.goto(request(application))
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    sign_in(page)
    expect(page.get_by_role("heading", level=1)).to_contain_text("Wiki of the lab asks to know you")
    look(page, "consent")
    page.get_by_role("button", name="Allow and go on").click()
    expect(page.get_by_role("heading")).to_have_text("The application")
    assert page.locator("#referrer").inner_text() == "none", "no page of ours is told to the application"
    given = redeem(page, served, application, secret)
    page.goto(request(application, state="again"))
    assert "state=again" in page.url and page.url.startswith(application), "nobody is asked twice"
    page.goto("/account/apps")
    expect(page.get_by_role("row", name="Wiki of the lab")).to_contain_text("your e-mail address")
    look(page, "account")
    page.get_by_role("button", name="Take back").click()
    expect(page.get_by_role("status")).to_contain_text("knows you no more")
    page.goto(request(application))
    page.get_by_role("link", name="Do not allow").click()
    page.wait_for_url(f"{application}/back?error=access_denied*")
    end = {"id_token_hint": given["id_token"], "post_logout_redirect_uri": f"{application}/bye"}
    page.goto(f"/oidc/logout?{urlencode(end)}")
    assert page.url == f"{application}/bye"
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_a_trusted_application_and_signing_out_by_hand(page: Page, served: Served, application: str) -> None:
    page.goto("/sign-in")
    sign_in(page)
    secret = make_application(page, application, trusted=True)
    page.goto("/applications/wiki")
    look(page, "one")
    page.goto("/applications")
    look(page, "list")
    page.context.clear_cookies()
    page.goto(request(application))
    sign_in(page)
    page.wait_for_url(f"{application}/back?code=*")
    assert redeem(page, served, application, secret)["access_token"]
    page.goto(request(application, prompt="login"))
    assert urlsplit(page.url).path == "/confirm"
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.locator("main button.btn-primary").click()
    page.wait_for_url(f"{application}/back?code=*")
    page.goto(f"/oidc/logout?{urlencode({'client_id': 'wiki', 'post_logout_redirect_uri': f'{application}/bye'})}")
    look(page, "log-out")
    page.get_by_role("button", name="Sign out").last.click()
    page.wait_for_url(f"{application}/bye")
