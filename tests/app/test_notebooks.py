"""Notebook servers by portal, REST and command line's actions: listed, started, stopped, ended with the right to them.

The host and the hub are dictionaries here; tests/host has the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from diycloud.auth import host_password
from diycloud.config_notebooks import Profile
from diycloud.db.engine import Database
from diycloud.errors import Conflict, Unavailable
from diycloud.notebooks import eviction, repository
from diycloud.notebooks.hub import HubServer
from diycloud.users import reconcile
from diycloud.web.identity import COOKIE, HUB_PEER
from tests.app.notebook_site import Site
from tests.app.restful import FAR
from tests.app.test_notebooks_internal import HUB, come, events


@pytest.fixture
def site(database: Database) -> Iterator[Site]:
    made = Site(database)
    made.user("boss", role="admin")
    yield made


@pytest.fixture
def ada(site: Site) -> int:
    return site.user("ada", full_name="Ada Lovelace", portal_only=0, uid=20_001, host_generation=1)


@pytest.fixture
def cookie(site: Site, ada: int) -> str:
    return site.signed_in(ada)


# -- list


def test_one_that_was_never_started(site: Site, ada: int, cookie: str) -> None:
    found = site.rest("GET", token=cookie).json()
    (first,) = found["servers"]
    assert (first["name"], first["state"], first["address"]) == ("", "stopped", "/jupyter/user/ada/")
    assert (found["more"], found["warnings"]) == (3, [])
    assert found["profiles"] == [
        {"name": "small", "title": "small", "cpu": 0.5, "memory": 512 << 20},
        {"name": "large", "title": "Large", "cpu": None, "memory": 16 << 30},
    ]


def test_sizes_in_containers_are_not_offered(database: Database) -> None:
    boxed = {"box": Profile(kind="docker", image="lab"), "small": Profile(cpu=0.5)}
    site = Site(database, profiles=boxed)
    cookie = site.signed_in(site.user("ada", portal_only=0, uid=20_001))
    assert [one["name"] for one in site.rest("GET", token=cookie).json()["profiles"]] == ["small"]
    refused = site.rest("POST", token=cookie, json={"profile": "box"})
    assert refused.status_code == 422 and refused.json()["errors"][0]["message"].endswith("small")
    assert not any(asked[0] == "start" for asked in site.hub.asked)


def test_agent_and_hub_together_tell_what_is(site: Site, ada: int, cookie: str) -> None:
    site.host.runs("ada", profile="small", started=1_700_000_000.0, memory=1 << 20, cpu_us=2_500_000, tasks=7)
    site.host.runs("ada", "big")
    site.hub.known["ada"] = {
        "big": HubServer("big", False, "stop"), "new": HubServer("new", False, "spawn", "large"),
        "old": HubServer("old", False, "", "small"),
    }  # fmt: skip
    found = site.rest("GET", token=cookie).json()
    states = {one["name"]: (one["state"], one["profile"], one["address"]) for one in found["servers"]}
    assert states == {
        "": ("running", "small", "/jupyter/user/ada/"),
        "big": ("stopping", "", "/jupyter/user/ada/big/"),
        "new": ("starting", "large", "/jupyter/user/ada/new/"),
        "old": ("stopped", "small", "/jupyter/user/ada/old/"),
    }
    first = found["servers"][0]
    assert (first["memory"], first["cpu_seconds"], first["tasks"]) == (1 << 20, 2.5, 7)
    assert first["started_at"] == "2023-11-14 22:13:20" and found["more"] == 0


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ({"memory_kill": True, "profile": "small"}, "It was ended for memory: the limit is 512M."),
        ({"memory_kill": True, "profile": "large"}, "It was ended for memory: the limit is 2G."),
        ({"exit_code": 3}, "It ended by itself, with the status 3."),
        ({"exit_code": -11}, "It was ended by SIGSEGV."),
        ({"exit_code": -99}, "It was ended by the signal 99."),
        ({}, "It ended by itself."),
    ],
)
def test_why_one_failed_with_its_last_lines(
    site: Site, ada: int, cookie: str, end: dict[str, Any], reason: str
) -> None:
    site.host.runs("ada", state="failed", log=("last", "lines"), ended=1.0, **end)
    first = site.rest("GET", token=cookie).json()["servers"][0]
    assert (first["state"], first["reason"], first["log"]) == ("failed", reason, ["last", "lines"])


def test_a_kernel_that_was_killed_is_told_while_the_server_runs(site: Site, ada: int, cookie: str) -> None:
    site.host.runs("ada", memory_kills=1)
    first = site.rest("GET", token=cookie).json()["servers"][0]
    assert (first["state"], first["reason"]) == ("running", "A program in it was ended for memory: the limit is 2G.")


def test_a_start_that_never_came_to_the_agent(site: Site, ada: int, cookie: str) -> None:
    events(site, {"kind": "failed", "name": "ada", "at": time.time(), "reason": "There is no room."})
    first = site.rest("GET", token=cookie).json()["servers"][0]
    assert (first["state"], first["reason"]) == ("failed", "There is no room.")
    events(site, {"kind": "started", "name": "ada", "at": time.time(), "seconds": 0.5})
    assert site.rest("GET", token=cookie).json()["servers"][0]["state"] == "stopped"


def test_the_last_lines_of_a_start_that_failed_are_its_owner_s(site: Site, ada: int, cookie: str) -> None:
    told = "It did not start.\nTraceback\n  /home/ada/secret plans.py"
    events(site, {"kind": "failed", "name": "ada", "at": time.time(), "reason": told})
    found = site.rest("GET", token=cookie).json()
    first = found["servers"][0]
    assert (first["reason"], first["log"]) == ("It did not start.", ["Traceback", "  /home/ada/secret plans.py"])
    page = site.get("/notebooks", cookie).text
    assert page.count("secret plans") == 1 and page.count("It did not start.") == 2
    admin = site.signed_in(1)
    seen = site.rest("GET", token=admin).text
    assert "It did not start." in seen and "secret plans" not in seen
    assert "secret plans" not in site.get("/users/ada/notebooks", admin).text


def test_why_a_start_failed_of_which_the_agent_knows_how_it_ended(site: Site, ada: int, cookie: str) -> None:
    """One that did not answer was ended by a signal; that is not the reason."""
    site.host.runs("ada", state="failed", log=("/home/ada/secret plans.py",), ended=1.0, exit_code=-9)
    events(
        site,
        {
            "kind": "failed",
            "name": "ada",
            "at": time.time(),
            "reason": "It did not answer.\nsecret plans",
            "cause": "start",
        },
    )
    first = site.rest("GET", token=cookie).json()["servers"][0]
    assert (first["reason"], first["log"]) == ("It did not answer.", ["/home/ada/secret plans.py"])
    seen = site.rest("GET", token=site.signed_in(1)).text
    assert "It did not answer." in seen and "secret plans" not in seen
    site.host.runs("ada", state="failed", ended=1.0, exit_code=-9, memory_kill=True, profile="small")
    first = site.rest("GET", token=cookie).json()["servers"][0]
    assert first["reason"] == "It was ended for memory: the limit is 512M.", "which says how much there is"


def test_what_cannot_be_asked_is_said(site: Site, ada: int, cookie: str) -> None:
    site.hub.away = True
    site.host.runs("ada")
    found = site.rest("GET", token=cookie).json()
    assert found["servers"][0]["state"] == "running" and "hub does not answer" in found["warnings"][0]
    site.host.away = True
    assert len(site.rest("GET", token=cookie).json()["warnings"]) == 2
    page = site.get("/notebooks", cookie)
    assert page.status_code == 200 and "hub does not answer" in page.text


def test_last_lines_are_their_owner_s(site: Site, ada: int) -> None:
    site.host.runs("ada", state="failed", log=("/home/ada/secret plans.ipynb",))
    admin = site.signed_in(1)
    assert site.rest("GET", token=admin).json()["servers"][0]["log"] == []
    assert "secret plans" not in site.get("/users/ada/notebooks", admin).text
    acting = site.rest("GET", token=admin, headers={"x-on-behalf-of": "ada"})
    assert acting.json()["servers"][0]["log"] == []
    assert site.rest("GET").json()["servers"][0]["log"], "root on the host can read them anyway"


def test_a_host_without_notebooks(site: Site, ada: int, cookie: str) -> None:
    site.hub.is_set_up = False
    for method in ("GET", "POST", "DELETE"):
        body = {} if method == "GET" else {"json": {}}
        answer = site.rest(method, token=cookie, **body)
        assert (answer.status_code, answer.json()["code"]) == (501, "unsupported")
    assert "not set up" in site.get("/notebooks", cookie).text
    assert "Notebooks" not in site.get("/", cookie).text


# -- start


def test_start_by_rest(site: Site, ada: int, cookie: str) -> None:
    started = site.rest("POST", token=cookie, json={"profile": "large"})
    assert (started.status_code, started.json()["state"]) == (200, "running")
    assert started.json()["address"] == "/jupyter/user/ada/"
    assert ("start", "ada", "", "large") in site.hub.asked
    assert site.by_hand("SELECT outcome, actor, target FROM audit WHERE action = 'notebook.start'") == [
        ("done", "ada", "ada")
    ]
    site.hub.ready = False
    named = site.rest("POST", token=cookie, json={"server_name": "big"}).json()
    assert (named["state"], named["address"]) == ("starting", "/jupyter/user/ada/big/")


@pytest.mark.parametrize(
    "sent", [{"profile": "huge"}, {"server_name": "../x"}, {"server_name": "A"}, {"profile": "a b"}]
)
def test_a_start_of_what_cannot_be(site: Site, ada: int, cookie: str, sent: dict[str, str]) -> None:
    refused = site.rest("POST", token=cookie, json=sent)
    assert (refused.status_code, [e["field"] for e in refused.json()["errors"]]) == (422, list(sent))
    assert not site.hub.asked


def test_a_host_with_one_server_each(database: Database) -> None:
    site = Site(database, named_servers=0)
    cookie = site.signed_in(site.user("ada", portal_only=0, uid=20_001))
    assert site.rest("POST", token=cookie, json={"server_name": "big"}).status_code == 422
    assert site.rest("GET", token=cookie).json()["more"] == 0
    assert "One more server" not in site.get("/notebooks", cookie).text


def test_nobody_starts_another_s(site: Site, ada: int) -> None:
    bob = site.signed_in(site.user("bob", portal_only=0, uid=20_002))
    for token in (site.signed_in(1), bob, None):
        refused = site.rest("POST", token=token, json={})
        assert (refused.status_code, refused.json()["code"]) == (403, "permission-denied")
    assert not site.hub.asked


def test_an_account_of_the_portal_alone_has_none(site: Site, ada: int) -> None:
    boss = site.signed_in(1)
    assert site.rest("POST", "boss", token=boss, json={}).status_code == 409
    page = site.get("/notebooks", boss)
    assert page.status_code == 200 and "for the portal only" in page.text


def test_what_the_hub_refuses_is_said(site: Site, ada: int, cookie: str) -> None:
    site.hub.refuses = Conflict("ada has 3 servers already.")
    assert site.rest("POST", token=cookie, json={}).json()["detail"] == "ada has 3 servers already."
    page = site.post("/notebooks", cookie, {"start": ""})
    assert page.status_code == 409 and "ada has 3 servers already." in page.text
    site.hub.away = True
    assert site.post("/notebooks", cookie, {"start": ""}).status_code == 503


# -- stop


def test_stop_makes_sure(site: Site, ada: int, cookie: str) -> None:
    site.rest("POST", token=cookie, json={})
    stopped = site.rest("DELETE", token=cookie, json={})
    assert stopped.status_code == 200 and ("stop", "ada", "") in site.hub.asked
    assert site.host.servers["ada", ""].state == "stopped"


def test_stop_works_without_the_hub(site: Site, ada: int, cookie: str) -> None:
    site.host.runs("ada", "big")
    site.hub.away = True
    stopped = site.rest("DELETE", token=cookie, json={"server_name": "big"})
    assert stopped.status_code == 200 and stopped.json()["warnings"]
    assert site.host.servers["ada", "big"].state == "stopped"


def test_administrators_stop_everything_of_somebody(site: Site, ada: int) -> None:
    for server in ("", "big"):
        site.host.runs("ada", server)
    admin = site.signed_in(1)
    assert site.rest("DELETE", token=admin, json={"everything": True}).status_code == 200
    assert {one.state for one in site.host.servers.values()} == {"stopped"}
    page = site.post("/users/ada/notebooks", admin, {"stop": "big"})
    assert (page.status_code, page.headers["location"]) == (303, "/users/ada/notebooks")
    assert site.post("/users/ada/notebooks", site.signed_in(ada), {"stop": ""}).status_code == 303, "it is her own"
    bob = site.signed_in(site.user("bob", portal_only=0, uid=20_002))
    assert site.post("/users/ada/notebooks", bob, {"stop": ""}).status_code == 403
    assert site.get("/users/ada/notebooks", bob).status_code == 403


# -- out


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


# -- the portal


def test_the_tile_shows_state_size_and_why(site: Site, ada: int, cookie: str) -> None:
    home = site.get("/", cookie).text
    assert "not running" in home and 'name="profile:"' in home and 'name="start"' in home
    site.host.runs("ada", state="failed", memory_kill=True, profile="small", log=("<b>bold</b>",))
    home = site.get("/", cookie).text
    assert "ended for memory: the limit is 512M" in home and "&lt;b&gt;bold" in home and "Start again" in home
    site.host.runs("ada", profile="small", started=time.time(), memory=1 << 30)
    home = site.get("/", cookie).text
    assert 'href="/jupyter/user/ada/"' in home and "1G of your memory" in home and 'name="stop"' in home


def test_start_leads_to_the_server(site: Site, ada: int, cookie: str) -> None:
    started = site.post("/notebooks", cookie, {"start": "", "profile:": "large", "profile:big": "small"})
    assert (started.status_code, started.headers["location"]) == (303, "/jupyter/user/ada/")
    assert ("start", "ada", "", "large") in site.hub.asked
    site.post("/notebooks", cookie, {"start": "big", "profile:": "large", "profile:big": "small"})
    assert ("start", "ada", "big", "small") in site.hub.asked
    added = site.post("/notebooks/new", cookie, {"server_name": "third", "profile": "small"})
    assert added.headers["location"] == "/jupyter/user/ada/third/"
    for name in ("", "No Name", "a" * 31):
        assert site.post("/notebooks/new", cookie, {"server_name": name, "profile": "small"}).status_code == 422
    page = site.get("/notebooks", cookie).text
    assert "third" in page and page.count('name="stop"') == 3
    stopped = site.post("/notebooks", cookie, {"stop": "big"})
    assert (stopped.status_code, stopped.headers["location"]) == (303, "/notebooks")
    assert site.host.servers["ada", "big"].state == "stopped" and site.host.servers["ada", ""].state == "running"


def test_pages_are_for_those_who_are_signed_in(site: Site, ada: int) -> None:
    assert site.get("/notebooks").status_code == 303
    assert site.get("/events/notebooks").status_code == 303
    forged = site.ask(
        "POST", "/notebooks", token="", headers={"cookie": f"{COOKIE}={site.signed_in(ada)}"}, data={"start": ""}
    )
    assert forged.status_code == 403 and not site.hub.asked


def test_the_page_follows_what_happens(site: Site, ada: int, cookie: str) -> None:
    part = site.get("/notebooks?fragment=1", cookie).text
    before = re.findall(r'data-mark="(\w+)"', part)
    assert (
        before
        and "<html" not in part
        and before == re.findall(r'data-mark="(\w+)"', site.get("/notebooks", cookie).text)
    )

    async def watch() -> list[str]:
        """Read the stream as a browser does, while a server starts."""
        told: list[str] = []
        sent = {"cookie": f"{COOKIE}={cookie}", "x-forwarded-for": FAR}
        scope = {
            "type": "http", "method": "GET", "path": "/events/notebooks", "raw_path": b"/events/notebooks",
            "query_string": b"", "http_version": "1.1", "scheme": "https", "root_path": "", "asgi": {"version": "3.0"},
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": ("unix-uid", 33), "server": ("cloud.test", 443),
        }  # fmt: skip
        done = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await done.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if body := message.get("body"):
                told.append(json.loads(body.decode().removeprefix("data: "))["mark"])
            if len(told) == 1:
                site.host.runs("ada")
                site.services.notebook_changes.tell("ada")
            if len(told) == 2:
                done.set()

        await asyncio.wait_for(site.app(scope, receive, send), 10)
        return told

    first, second = asyncio.run(watch())
    assert first == before[0] != second
    assert re.findall(r'data-mark="(\w+)"', site.get("/notebooks", cookie).text) == [second]


# -- what a notebook's script can do to the portal, on the same origin


@pytest.fixture
def script(site: Site, ada: int, cookie: str) -> Callable[..., httpx.Response]:
    """Ask as a script in JupyterLab does that runs in ada's browser: her cookie goes along."""
    headers = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}
    return lambda path, method="GET", **more: site.ask(
        method, path, token="", headers={"cookie": f"{COOKIE}={cookie}", **headers}, **more
    )


@pytest.mark.parametrize(
    "path",
    ["/", "/account", "/account/keys", "/account/tokens/new", "/sign-in", "/confirm", "/users/ada", "/nothing", "/notebooks",
     "/notebooks?fragment=1", "/notebooks?fragment=tile", "/users", "/users?fragment=1", "/users/ada/notebooks",
     "/oidc/authorize"],
)  # fmt: skip
def test_a_script_reads_no_csrf_token(
    site: Site, cookie: str, script: Callable[..., httpx.Response], path: str
) -> None:
    ((csrf,),) = site.by_hand("SELECT csrf FROM sessions")
    answer = script(path)
    assert csrf not in answer.text and "set-cookie" not in answer.headers
    if not path.startswith(("/notebooks", "/users")):
        assert answer.status_code in (403, 404)
    assert answer.headers.get("cross-origin-opener-policy") == "same-origin"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_a_script_has_no_session_at_rest(script: Callable[..., httpx.Response], site: Site, cookie: str) -> None:
    assert script("/api/v1/auth/whoami").status_code == 401
    assert script("/api/v1/users/ada").status_code == 401
    typed = {"cookie": f"{COOKIE}={cookie}", "sec-fetch-mode": "navigate", "sec-fetch-site": "none"}
    assert site.ask("GET", "/api/v1/users/ada", token="", headers=typed).status_code == 200, (
        "typed into the address bar"
    )


def test_a_script_sends_no_form(script: Callable[..., httpx.Response], site: Site, ada: int) -> None:
    for csrf in ("", "guess"):
        assert script("/account/keys", "POST", data={"csrf": csrf, "key": "ssh-ed25519 AAAA"}).status_code == 403
        assert script("/notebooks", "POST", data={"csrf": csrf, "start": ""}).status_code == 403
    assert not site.hub.asked
