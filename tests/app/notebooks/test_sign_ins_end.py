"""Who loses the right to notebooks, a sign-in or the account: what ends with it, at once or when the hub is back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import httpx
import pytest

from diycloud.auth import host_password
from diycloud.errors import Unavailable
from diycloud.notebooks import eviction, repository
from diycloud.users import reconcile
from diycloud.web.identity import HUB_PEER
from tests.app.notebook_site import Site
from tests.app.peers import HUB, come, events
from tests.app.restful import FAR


def lock_out(site: Site, how: str) -> None:
    if how == "networks":
        changed = site.ask("PATCH", "/api/v1/users/ada", json={"allowed_client_ip": ["10.0.0.0/8"]})
    elif how == "delete":
        changed = site.ask("DELETE", "/api/v1/users/ada")
    else:
        changed = site.ask("POST", "/api/v1/users/ada/disable", json={"keep_running": how == "keep running"})
    assert changed.status_code == 200, changed.text


@pytest.mark.parametrize("how", ["disable", "keep running", "delete", "networks"])
def test_out_of_the_notebooks_at_once(site: Site, ada: int, cookie: str, how: str) -> None:
    for server in ("", "big"):
        site.rest("POST", token=cookie, json={"server_name": server})
    site.hub.tokens["ada"] = ["script"]
    lock_out(site, how)
    assert {one.state for one in site.host.servers.values()} == {"stopped"}
    assert site.hub.known["ada"] == {} and "ada" not in site.hub.tokens
    assert site.by_hand("SELECT * FROM notebook_evictions") == []


@pytest.mark.parametrize("away", ["hub", "agent"])
def test_whatever_is_away_is_told_when_it_is_back(site: Site, ada: int, cookie: str, away: str) -> None:
    site.rest("POST", token=cookie, json={})
    site.hub.tokens["ada"] = ["script"]
    part = site.hub if away == "hub" else site.host
    part.away = True
    lock_out(site, "disable")
    assert site.by_hand("SELECT username, gone FROM notebook_evictions") == [("ada", 0)]
    if away == "hub":
        assert site.host.servers["ada", ""].state == "stopped", "the agent needs no hub to end it"
    with contextlib.suppress(Unavailable):
        asyncio.run(reconcile.reconcile(site.services))
    assert site.by_hand("SELECT count(*) FROM notebook_evictions") == [(1,)]
    part.away = False
    asyncio.run(reconcile.reconcile(site.services))
    assert site.by_hand("SELECT count(*) FROM notebook_evictions") == [(0,)]
    assert site.host.servers["ada", ""].state == "stopped" and "ada" not in site.hub.tokens


NEW = "otter marble comet violet"


def end_sign_ins(site: Site, how: str, ada: int, cookie: str) -> None:
    """Do what ends sign-ins and no server."""
    if how == "role":
        done = site.ask("PATCH", "/api/v1/users/ada", json={"role": "monitor"})
    elif how == "password set":
        done = site.ask("PUT", "/api/v1/users/ada/password", json={"password": NEW})
    elif how == "out everywhere":
        done = site.ask("DELETE", "/api/v1/users/ada/sessions")
    elif how == "own password":
        done = site.ask("PUT", "/api/v1/account/password", token=cookie, json={"current": "x", "password": NEW})
    elif how == "own password, tokens kept":
        body = {"current": "x", "password": NEW, "keep_tokens": True}
        done = site.ask("PUT", "/api/v1/account/password", token=cookie, json=body)
    else:
        asyncio.run(site.services.database.write(host_password.void, site.services, ["ada"]))
        asyncio.run(eviction.carry_out(site.services))
        return
    assert done.status_code < 300, done.text


OTHERS = ("role", "password set", "out everywhere", "passwd")
OWN = ("own password", "own password, tokens kept")


@pytest.mark.parametrize("how", OTHERS + OWN)
def test_what_was_begun_at_the_hub_ends_and_servers_go_on(site: Site, ada: int, cookie: str, how: str) -> None:
    site.rest("POST", token=cookie, json={})
    session = site.signed_in(ada, kind="api") if how in OWN else cookie
    ((kept,),) = site.by_hand("SELECT max(id) FROM sessions")
    site.hub.tokens["ada"] = ["script"]
    end_sign_ins(site, how, ada, session)
    asked = ("sign_out", "ada", "" if "kept" in how else "tokens", str(kept) if how in OWN else "")
    assert asked in site.hub.asked, site.hub.asked
    assert ("ada" in site.hub.tokens) is ("kept" in how)
    assert site.host.servers["ada", ""].state == "running" and ("stop", "ada", "") not in site.hub.asked
    assert site.by_hand("SELECT * FROM notebook_evictions") == []


@pytest.mark.parametrize("how", OTHERS + OWN)
def test_a_hub_that_was_away_lets_nobody_in_until_it_is_done(site: Site, ada: int, cookie: str, how: str) -> None:
    session = site.signed_in(ada, kind="api")
    site.hub.away, site.hub.tokens["ada"] = True, ["script"]
    end_sign_ins(site, how, ada, session)
    assert site.by_hand("SELECT servers, tokens, gone FROM notebook_evictions") == [(0, int("kept" not in how), 0)]
    site.by_hand("UPDATE users SET must_change_password = 0")
    asyncio.run(reconcile.reconcile(site.services))
    assert come(site, HUB, "GET", "/internal/hub/users/ada").status_code == 200, "it may still be on its way"
    site.by_hand("UPDATE notebook_evictions SET asked_at = asked_at - 3")
    asked = come(site, HUB, "GET", "/internal/hub/users/ada")
    assert asked.status_code == 403 and "is being ended" in asked.json()["reason"]
    site.hub.away = False
    asyncio.run(reconcile.reconcile(site.services))
    assert ("ada" in site.hub.tokens) is ("kept" in how)
    assert come(site, HUB, "GET", "/internal/hub/users/ada").status_code == 200


def test_the_hub_that_is_back_has_it_done_by_asking(site: Site, ada: int) -> None:
    site.hub.away, site.hub.tokens["ada"] = True, ["script"]
    end_sign_ins(site, "role", ada, "")
    site.by_hand("UPDATE notebook_evictions SET asked_at = asked_at - 3")
    site.hub.away = False

    async def ask_twice() -> list[int]:
        found = []
        for _ in range(2):
            transport = httpx.ASGITransport(site.app, client=HUB)
            async with httpx.AsyncClient(transport=transport, base_url="https://cloud.test") as client:
                found.append((await client.get("/internal/hub/users/ada")).status_code)
            await asyncio.sleep(0.3)
        return found

    assert asyncio.run(ask_twice()) == [403, 200]
    assert "ada" not in site.hub.tokens


def test_two_wishes_that_wait_end_all_that_either_ends(site: Site, ada: int) -> None:
    def wait(*wishes: dict[str, Any]) -> Any:
        for wish in wishes:
            asyncio.run(site.database.write(lambda connection, wish=wish: repository.evict(connection, "ada", **wish)))
        ((*found,),) = site.by_hand("SELECT servers, tokens, gone, kept_session FROM notebook_evictions")
        site.by_hand("DELETE FROM notebook_evictions")
        return found

    own = {"servers": False, "tokens": False, "kept_session": 7}
    assert wait(own) == wait(own, own) == [0, 0, 0, 7]
    assert wait(own, {**own, "kept_session": 8}) == [0, 0, 0, None]
    assert wait(own, {"servers": False}) == wait({"servers": False}, own) == [0, 1, 0, None]
    assert wait({}, own) == wait(own, {}) == [1, 1, 0, None]
    assert wait({"gone": True}, own) == [1, 1, 1, None]


def test_where_there_is_no_hub_nothing_waits_for_it(site: Site, ada: int, cookie: str) -> None:
    site.hub.is_set_up = False
    end_sign_ins(site, "role", ada, cookie)
    site.hub.is_set_up = True
    site.user("eve")  # for the portal only
    site.ask("DELETE", "/api/v1/users/eve/sessions")
    assert site.by_hand("SELECT * FROM notebook_evictions") == [] and not site.hub.asked


def test_networks_that_let_everybody_in_who_is_in_end_nothing(site: Site, ada: int, cookie: str) -> None:
    site.rest("POST", token=cookie, json={})
    for networks in (["192.0.2.0/24"], []):
        changed = site.ask("PATCH", "/api/v1/users/ada", json={"allowed_client_ip": networks})
        assert changed.status_code == 200
    assert site.host.servers["ada", ""].state == "running" and not site.by_hand("SELECT * FROM notebook_evictions")


def test_a_session_that_is_gone_may_still_have_a_websocket(site: Site, ada: int, cookie: str) -> None:
    site.rest("POST", token=cookie, json={})
    site.by_hand("DELETE FROM sessions")
    assert site.ask("PATCH", "/api/v1/users/ada", json={"allowed_client_ip": [f"{FAR}/32"]}).status_code == 200
    assert site.host.servers["ada", ""].state == "stopped"


def test_a_purged_user_is_forgotten_by_the_hub_before_the_name_comes_back(site: Site, ada: int, cookie: str) -> None:
    site.rest("POST", token=cookie, json={})
    lock_out(site, "delete")
    site.hub.known["ada"] = {}
    site.hub.away = True
    purged = site.ask("POST", "/api/v1/users/ada/purge", json={})
    assert purged.status_code == 200, purged.text
    assert site.by_hand("SELECT username, gone FROM notebook_evictions") == [("ada", 1)]
    again = site.user("ada", portal_only=0, uid=20_009)
    asked = come(site, (HUB_PEER, 970), "GET", "/internal/hub/users/ada")
    assert asked.status_code == 403 and "earlier user" in asked.json()["reason"]
    fresh = site.signed_in(again)
    assert site.rest("POST", token=fresh, json={}).status_code == 503
    site.hub.away = False
    assert site.rest("POST", token=fresh, json={}).status_code == 200, "the start itself has it done first"
    assert site.hub.asked.index(("remove", "ada")) < site.hub.asked.index(("start", "ada", "", ""), 3)
    assert come(site, (HUB_PEER, 970), "GET", "/internal/hub/users/ada").status_code == 200


def test_activity_goes_with_its_user_and_its_time(site: Site, ada: int) -> None:
    told = {"kind": "started", "name": "ada", "at": time.time() - 400 * 86_400}
    events(site, told, {**told, "at": time.time()})
    asyncio.run(reconcile.housekeeping(site.services))
    assert site.by_hand("SELECT count(*) FROM activity") == [(1,)]
    lock_out(site, "delete")
    site.ask("POST", "/api/v1/users/ada/purge", json={})
    assert site.by_hand("SELECT count(*) FROM activity") == [(0,)]
