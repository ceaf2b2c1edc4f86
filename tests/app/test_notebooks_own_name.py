"""Notebooks at a host name of their own: how browsers get there from the portal, and what does not get in or out by it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import httpx
import msgspec
import pytest

from diycloud.auth import sessions
from diycloud.config_notebooks import NotebookSettings
from diycloud.db.engine import Database
from diycloud.notebooks import doors
from diycloud.web.identity import COOKIE
from tests.app.notebook_site import Site
from tests.app.openid import OpenId
from tests.app.peers import FAR, HUB, NGINX, come

HERE, THERE = "https://cloud.test", "https://notebooks.test"


def own_name(site: OpenId) -> OpenId:
    site.services.settings = msgspec.structs.replace(
        site.services.settings, notebooks=NotebookSettings(host="notebooks.test")
    )
    site.restart()
    return site


@pytest.fixture
def site(site: OpenId) -> OpenId:
    return own_name(site)


@pytest.fixture
def ada(site: OpenId) -> int:
    return site.user("ada", full_name="Ada Lovelace", portal_only=0, uid=20_001)


class Browser:
    """A browser's cookies at the notebooks' name, and what it asks there."""

    def __init__(self, site: OpenId, session: str = "") -> None:
        self.site, self.session = site, session
        self.cookies: dict[str, str] = {}

    def there(self, query: str = "", method: str = "GET", **headers: str) -> httpx.Response:
        """Ask what Nginx hands to the server."""
        sent = {"x-forwarded-for": FAR, "host": "notebooks.test", **headers}
        sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = come(self.site, NGINX, method, f"/internal/notebooks/enter{query}", headers=sent)
        for line in answer.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer

    def here(self, address: str) -> httpx.Response:
        """Go to an address of the portal."""
        assert address.startswith(f"{HERE}/"), address
        return self.site.get(address.removeprefix(HERE), self.session)

    def code(self, page: str = "/jupyter/user/ada/lab") -> str:
        """Come as far as the way back from the portal; returns its query."""
        asked = self.here(self.there(f"?next={page}").headers["location"])
        assert asked.status_code == 303, asked.text
        back = urlsplit(asked.headers["location"])
        assert f"{back.scheme}://{back.netloc}{back.path}" == f"{THERE}/jupyter/_enter", back
        assert [name for name, _ in parse_qsl(back.query)] == ["code"]
        return f"?{back.query}"

    def enter(self, page: str = "/jupyter/user/ada/lab") -> httpx.Response:
        return self.there(self.code(page))

    def guard(self, owner: str = "", **headers: str) -> httpx.Response:
        sent = {"x-forwarded-for": FAR, "host": "notebooks.test", "x-notebook-owner": owner, **headers}
        sent.setdefault("cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        return come(self.site, NGINX, "GET", "/internal/notebooks/guard", headers=sent)


@pytest.fixture
def browser(site: OpenId, cookie: str) -> Browser:
    return Browser(site, cookie)


# -- the way in


def test_the_way_from_the_portal(browser: Browser) -> None:
    begun = browser.there("?next=/jupyter/user/ada/lab/tree/a%20b.ipynb")
    assert (begun.status_code, begun.headers["referrer-policy"]) == (303, "no-referrer")
    asked = urlsplit(begun.headers["location"])
    assert (asked.netloc, asked.path) == ("cloud.test", "/notebooks/enter")
    half = browser.cookies[doors.HALF]
    assert half not in asked.query and parse_qs(asked.query)["bound"] == [doors.bound(half)]
    back = browser.here(begun.headers["location"])
    assert back.status_code == 303 and back.headers["referrer-policy"] == "no-referrer"
    entered = browser.there(f"?{urlsplit(back.headers['location']).query}")
    assert (entered.status_code, entered.headers["location"]) == (303, "/jupyter/user/ada/lab/tree/a%20b.ipynb")
    assert entered.headers["cache-control"] == "no-store"
    passed = browser.guard("ada")
    assert (passed.status_code, passed.headers["x-notebook-user"]) == (204, "ada")
    assert browser.guard("bob").status_code == 403


def test_both_cookies_are_this_hosts_alone_and_no_scripts(browser: Browser) -> None:
    set_ = [*browser.there().headers.get_list("set-cookie"), *browser.enter().headers.get_list("set-cookie")]
    assert sorted(line.partition("=")[0] for line in set_) == [doors.HALF, doors.COOKIE]
    for line in set_:
        words = {word.strip().lower() for word in line.split(";")[1:]}
        assert {"httponly", "secure", "samesite=lax", "path=/"} <= words and "domain" not in line.lower(), line
        assert line.startswith("__Host-"), "Nginx passes none of those on, and takes none from users' servers"


def test_who_is_not_signed_in_signs_in_at_the_portal_first(site: OpenId, ada: int) -> None:
    browser = Browser(site)
    asked = browser.here(browser.there("?next=/jupyter/user/ada/lab").headers["location"])
    target = urlsplit(asked.headers["location"])
    onward = parse_qs(target.query)["next"][0]
    assert (target.path, onward) == ("/sign-in", "/notebooks/open?next=%2Fjupyter%2Fuser%2Fada%2Flab")
    browser.session = site.signed_in(ada)
    page = site.get(onward, browser.session)
    assert page.status_code == 200, "a page of its own: Chrome holds form-action against the redirects after a form"
    assert f'content="0;url={THERE}/jupyter/user/ada/lab"' in page.text
    assert page.headers["content-security-policy"].count("form-action 'self'") == 1


def test_a_tab_that_is_opened_meanwhile_gets_in_too(browser: Browser) -> None:
    first, second = browser.code("/jupyter/user/ada/lab"), browser.code("/jupyter/hub/home")
    assert browser.there(second).headers["location"] == "/jupyter/hub/home"
    assert browser.there(first).headers["location"] == "/jupyter/user/ada/lab"


@pytest.mark.parametrize("column", ["must_change_password = 1", "status = 'inactive'"])
def test_who_must_do_something_else_first_gets_no_code(site: OpenId, ada: int, browser: Browser, column: str) -> None:
    asked = browser.there().headers["location"]
    site.by_hand(f"UPDATE users SET {column} WHERE username = 'ada'")
    answer = browser.here(asked)
    assert answer.status_code == 303 and "code=" not in answer.headers["location"]
    assert urlsplit(answer.headers["location"]).path in ("/account", "/sign-in")


# -- where it leads


@pytest.mark.parametrize(
    "page",
    ["//evil.test", "https://evil.test/", "/\\evil.test", "/jupyter/\\evil.test", "/sign-in", "/", "", "javascript:alert(1)",
     "/jupyterx", "/jupyter", "/jupyter/%0d%0aSet-Cookie:x=1", "/jupyter/_enter", "/jupyter/" + "x" * 3000,
     "jupyter/x", "/api/v1/users", "/jupyter/%00"],
)  # fmt: skip
def test_it_leads_to_pages_of_notebooks_only(browser: Browser, page: str) -> None:
    assert browser.enter(page).headers["location"] == "/jupyter/"
    shown = browser.site.get("/notebooks/open", browser.session, params={"next": unquote(page)})
    assert f'content="0;url={THERE}/jupyter/"' in shown.text


@pytest.mark.parametrize(
    "page", ["/jupyter//evil.test/", "/jupyter/..//evil.test", "/jupyter/@evil.test", "/jupyter/?a=//b"]
)
def test_odd_pages_stay_at_this_host(browser: Browser, page: str) -> None:
    there = browser.enter(page).headers["location"]
    assert there.startswith("/jupyter/") and "?" not in there, there
    assert httpx.URL(f"{THERE}/jupyter/_enter").join(there).host == "notebooks.test"


# -- what does not get in


def late(answer: httpx.Response, browser: Browser) -> bool:
    return answer.status_code == 403 and doors.COOKIE not in browser.cookies and "no longer open" in answer.text


def test_a_code_holds_once(browser: Browser) -> None:
    code = browser.code()
    assert browser.there(code).status_code == 303
    del browser.cookies[doors.COOKIE]
    assert late(browser.there(code), browser)


def test_a_code_holds_for_half_a_minute(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    code, waiting = browser.code(), browser.site.services.notebook_codes
    now = waiting._clock()
    monkeypatch.setattr(waiting, "_clock", lambda: now + 31)
    assert late(browser.there(code), browser)


def test_a_code_that_somebody_else_sends_signs_nobody_in(site: OpenId, ada: int, cookie: str) -> None:
    mallory = Browser(site, site.signed_in(site.user("mallory", portal_only=0, uid=20_002)))
    sent, victim = mallory.code("/jupyter/user/mallory/lab"), Browser(site, cookie)
    assert late(victim.there(sent), victim)
    victim.there()  # with a half of its own
    assert late(victim.there(mallory.code()), victim)
    mallory.cookies.clear()
    assert late(mallory.there(sent), mallory), "and tried once, it is gone"


def test_a_code_that_was_seen_on_its_way_is_of_no_use(browser: Browser) -> None:
    thief = Browser(browser.site)
    thief.there()
    assert late(thief.there(browser.code()), thief)


@pytest.mark.parametrize("query", ["?code=x", "?code=%00", "?code=x&code=y", "?next=x&code=x", f"?code={'x' * 5000}"])
def test_what_is_no_code(browser: Browser, query: str) -> None:
    browser.there()
    assert late(browser.there(query), browser)


@pytest.mark.parametrize("bound", ["", "x", "x" * 42, "x" * 44, "%0d%0a", "=" * 43])
def test_a_code_is_always_bound(browser: Browser, bound: str) -> None:
    answer = browser.here(f"{HERE}/notebooks/enter?next=/jupyter/&bound={bound}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"{THERE}/jupyter/")


def test_a_page_of_users_gets_no_code_from_the_portal(browser: Browser) -> None:
    """Notebooks are the portal's neighbours: a script of theirs may send its cookie along (SameSite asks for the site alone)."""
    asked = browser.there().headers["location"].removeprefix(HERE)
    fetch = {"sec-fetch-mode": "cors", "sec-fetch-site": "same-site", "sec-fetch-dest": "empty"}
    for mode in ("cors", "no-cors", "same-origin", "websocket"):
        refused = browser.site.get(asked, browser.session, headers={**fetch, "sec-fetch-mode": mode})
        assert refused.status_code == 403 and "location" not in refused.headers
    assert "access-control-allow-origin" not in refused.headers
    sent = {"cookie": f"{COOKIE}={browser.session}", **fetch, "sec-fetch-mode": "navigate", "origin": THERE}
    form = browser.site.ask("POST", "/notebooks", token="", headers=sent, data={"start": ""})
    assert form.status_code == 403 and "another site" in form.text
    assert browser.site.ask("GET", "/api/v1/auth/whoami", token="", headers={**sent, **fetch}).status_code == 401


def test_tokens_get_no_code(site: OpenId, ada: int, cookie: str, browser: Browser) -> None:
    asked = browser.there().headers["location"].removeprefix(HERE)
    answer = site.ask("GET", asked, token=cookie)
    assert "code=" not in answer.headers.get("location", "")


def test_what_is_too_much_begins_anew(browser: Browser) -> None:
    answer = browser.there("?" + "&".join(["code=x"] * 300))
    assert answer.status_code == 303 and urlsplit(answer.headers["location"]).path == "/notebooks/enter"


def test_only_by_nginx_and_only_to_look(browser: Browser) -> None:
    assert come(browser.site, HUB, "GET", "/internal/notebooks/enter").status_code == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer = browser.there(method=method)
        assert answer.status_code == 405 and not browser.cookies


# -- what each cookie opens


def test_the_portals_cookie_opens_nothing_at_notebooks(browser: Browser) -> None:
    for name in (COOKIE, doors.COOKIE):
        assert browser.guard("ada", cookie=f"{name}={browser.session}").status_code == 401


def test_the_notebooks_cookie_opens_nothing_at_the_portal(browser: Browser) -> None:
    browser.enter()
    door = browser.cookies[doors.COOKIE]
    for name in (COOKIE, doors.COOKIE):
        sent = {"cookie": f"{name}={door}"}
        site = browser.site
        assert site.ask("GET", "/api/v1/auth/whoami", token="", headers=sent).status_code == 401
        assert urlsplit(site.ask("GET", "/account", token="", headers=sent).headers["location"]).path == "/sign-in"
        asked = site.ask("GET", "/oidc/authorize", token="", headers=sent, params=_authorization())
        assert urlsplit(asked.headers["location"]).path == "/sign-in"
        code = browser.there().headers["location"].removeprefix(HERE)
        assert urlsplit(site.ask("GET", code, token="", headers=sent).headers["location"]).path == "/sign-in"
    assert browser.site.ask("GET", "/api/v1/auth/whoami", token=door).status_code == 401


def _authorization() -> dict[str, Any]:
    from tests.app.openid import asked

    return asked()


@pytest.mark.parametrize("change", ["cut", "flip", "other", "plain", "empty"])
def test_a_made_up_cookie_opens_nothing(browser: Browser, change: str) -> None:
    browser.enter()
    door = browser.cookies[doors.COOKIE]
    made = {
        "cut": door[:-6], "flip": door[:30] + ("A" if door[30] != "A" else "B") + door[31:], "plain": "MSB4",
        "other": doors.sealed(type(browser.site.services.vault).of_this_process(), doors.Door(1, "x")), "empty": "",
    }[change]  # fmt: skip
    assert browser.guard("ada").status_code == 204
    assert browser.guard("ada", cookie=f"{doors.COOKIE}={made}").status_code == 401


def test_a_number_that_comes_again_is_another_session(browser: Browser) -> None:
    """An old database that is put back gives numbers of sessions a second time."""
    browser.enter()
    browser.site.by_hand("UPDATE sessions SET csrf = 'another'")
    assert browser.guard("ada").status_code == 401


# -- when it ends


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("UPDATE users SET status = 'inactive'", 401),
        ("UPDATE users SET status = 'deleted'", 401),
        ("UPDATE users SET allowed_client_ip = '10.0.0.0/8'", 401),
        ("UPDATE users SET must_change_password = 1", 403),
        ("UPDATE policies SET second_factor = 1", 403),
        ("UPDATE sessions SET last_seen = 1", 401),
        ("UPDATE sessions SET expires_at = 1", 401),
        ("DELETE FROM sessions", 401),
    ],
)
def test_it_ends_with_the_session(browser: Browser, change: str, status: int) -> None:
    browser.enter()
    code = browser.code()
    assert browser.guard("ada").status_code == 204
    browser.site.by_hand(change)
    assert browser.guard("ada").status_code == status
    hub = browser.guard()
    assert hub.status_code == 204 and "x-notebook-user" not in hub.headers
    if status == 401:
        assert browser.there(code).status_code == 403, "and a code on its way ends with it"


def test_signing_out_at_the_portal_ends_it(browser: Browser) -> None:
    browser.enter()
    assert browser.site.post("/sign-out", browser.session, {}).status_code == 303
    assert browser.guard("ada").status_code == 401


def test_a_session_whose_token_was_changed_goes_on(browser: Browser) -> None:
    """As after a proof of who it is: the page that is open in Lab is the same person's."""
    browser.enter()
    asked = sessions.token_hash(browser.session).hex()
    browser.site.by_hand(f"UPDATE sessions SET token_hash = x'00' WHERE token_hash = x'{asked}'")
    assert browser.guard("ada").status_code == 204


def test_work_in_a_notebook_is_use_of_the_session(browser: Browser) -> None:
    browser.enter()
    browser.site.by_hand("UPDATE sessions SET last_seen = last_seen - 3600")
    ((before,),) = browser.site.by_hand("SELECT max(last_seen) FROM sessions")
    assert browser.guard("ada").status_code == 204
    assert browser.site.by_hand("SELECT max(last_seen) FROM sessions")[0][0] >= before + 3600


# -- the hub's own pages


def test_pages_of_the_hub_come_in_by_the_portal_and_programs_do_not(browser: Browser) -> None:
    assert browser.guard(**{"x-notebook-enters": "1"}).status_code == 401
    assert browser.guard().status_code == 204
    browser.enter()
    passed = browser.guard(**{"x-notebook-enters": "1"})
    assert (passed.status_code, passed.headers["x-notebook-user"]) == (204, "ada")


# -- the portal's links, and without a name of their own


def test_the_portal_leads_there(database: Database) -> None:
    site = Site(database, host="notebooks.test")
    user = site.user("ada", portal_only=0, uid=20_001)
    cookie = site.signed_in(user)
    site.host.runs("ada", started=1.0)
    assert f'href="{THERE}/jupyter/user/ada/"' in site.get("/notebooks", cookie).text
    assert site.rest("GET").json()["servers"][0]["address"] == f"{THERE}/jupyter/user/ada/"
    started = site.post("/notebooks", cookie, {"start": ""})
    assert (started.status_code, started.headers["location"]) == (
        303,
        "/notebooks/open?next=%2Fjupyter%2Fuser%2Fada%2F",
    )
    page = site.get(started.headers["location"], cookie)
    assert re.search(r'url=([^"]*)"', page.text)[1] == f"{THERE}/jupyter/user/ada/"  # type: ignore[index]


def test_without_a_name_of_their_own_there_is_no_such_way(database: Database) -> None:
    site = Site(database)
    cookie = site.signed_in(site.user("ada", portal_only=0, uid=20_001))
    assert come(site, NGINX, "GET", "/internal/notebooks/enter").status_code == 404
    for path in ("/notebooks/enter?bound=" + "x" * 43, "/notebooks/open?"):
        assert site.get(f"{path}&next=/jupyter/user/ada/", cookie).headers["location"].startswith("/jupyter/")
    door = doors.sealed(site.services.vault, doors.Door(1, "x"))
    sent = {"cookie": f"{doors.COOKIE}={door}", "x-notebook-owner": "ada", "x-forwarded-for": FAR}
    assert come(site, NGINX, "GET", "/internal/notebooks/guard", headers=sent).status_code == 401
