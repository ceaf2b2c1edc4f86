"""Notebook servers by REST: listed with what is known of them, started, stopped.

The host and the hub are dictionaries here; tests/host has the real ones.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from diycloud.config_notebooks import Profile
from diycloud.db.engine import Database
from diycloud.errors import Conflict
from diycloud.notebooks.hub import HubServer
from tests.app.notebook_site import Site
from tests.app.peers import events

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


@pytest.mark.parametrize("broken", ["away", "breaks_at_a_stop"])
def test_stop_works_without_the_hub(site: Site, ada: int, cookie: str, broken: str) -> None:
    site.host.runs("ada", "big")
    setattr(site.hub, broken, True)
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
