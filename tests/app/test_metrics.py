"""/metrics of the whole application: who may read it, that what people do moves it, and that nobody can make it grow."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from diycloud.config import MetricsSettings, Settings
from diycloud.core import metrics
from diycloud.db.engine import Database
from diycloud.db.tables import users
from diycloud.errors import Unavailable
from diycloud.web.counting import watch_loop
from diycloud.web.identity import COOKIE, HUB_PEER, UNIX_PEER
from tests.app.notebook_site import Site
from tests.app.openid import OpenId
from tests.app.peers import HUB, come
from tests.app.restful import FAR, PASSWORD
from tests.unit.test_metrics import values

NOW = 1_700_000_000.0


@pytest.fixture
def notes(database: Database) -> Site:
    """A host with notebooks, ada on it."""
    found = Site(database)
    found.user("root_admin", role="admin", password_hash=f"plain {PASSWORD}")
    found.user("ada", portal_only=0, uid=20_001, password_hash=f"plain {PASSWORD}")
    return found


def told(site: OpenId) -> dict[str, float]:
    """Return what root is told now, past what was kept of the last answer."""
    site.services.meter._at = float("-inf")  # type: ignore[attr-defined]
    answer = site.ask("GET", "/metrics")
    assert answer.status_code == 200, answer.text
    return values(answer.content)


def moved(before: dict[str, float], after: dict[str, float], *names: str) -> dict[str, float]:
    """Return by how much what begins with a name moved."""
    found = {key: after[key] - before.get(key, 0.0) for key in after if key.startswith(names)}
    return {key: value for key, value in found.items() if value}


def token(site: OpenId, name: str, *scopes: str) -> str:
    session = site.token(name, PASSWORD)
    sent = {"label": "prometheus", "scopes": list(scopes), "days": 1}
    made = site.ask("POST", f"/api/v1/users/{name}/tokens", token=session, json=sent)
    assert made.status_code == 201, made.text
    return str(made.json()["secret"])


# -- who may


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/metrics"])
def test_who_may_read_it(notes: Site, path: str) -> None:
    notes.user("watcher", role="monitor", password_hash=f"plain {PASSWORD}")
    notes.user("head", role="domain-admin", password_hash=f"plain {PASSWORD}")
    right, narrow = token(notes, "root_admin", "metrics:read"), token(notes, "root_admin", "host:read")
    expected = {
        "root on the socket": (None, 200),
        "an administrator's token for it": (right, 200),
        "another of theirs": (narrow, 403),
        "an administrator who is signed in": (notes.token("root_admin", PASSWORD), 200),
        "a monitor": (token(notes, "watcher", "metrics:read"), 200),
        "a domain's administrator": (notes.token("head", PASSWORD), 403),
        "a user": (notes.token("ada", PASSWORD), 403),
        "nobody": ("", 401),
        "a token that is none": ("dct_" + "a" * 12 + "_" + "b" * 49, 401),
    }
    found = {who: notes.ask("GET", path, token=sent).status_code for who, (sent, _) in expected.items()}
    assert found == {who: status for who, (_, status) in expected.items()}


def test_strangers_are_told_what_to_send(notes: Site) -> None:
    answer = notes.ask("GET", "/metrics", token="")
    assert answer.status_code == 401 and "diycloud_" not in answer.text
    assert "metrics:read" in answer.json()["hint"] and answer.headers["www-authenticate"].startswith("Bearer")


def test_a_user_has_no_token_for_it(notes: Site) -> None:
    session = notes.token("ada", PASSWORD)
    sent = {"label": "x", "scopes": ["metrics:read"], "days": 1}
    assert notes.ask("POST", "/api/v1/users/ada/tokens", token=session, json=sent).status_code == 422


def test_no_script_of_a_notebook_reads_it_with_an_administrators_cookie(notes: Site) -> None:
    cookie = notes.signed_in(1)
    sent = {"x-forwarded-for": FAR, "cookie": f"{COOKIE}={cookie}", "sec-fetch-mode": "cors"}
    assert come(notes, (UNIX_PEER, 33), "GET", "/metrics", headers=sent).status_code == 401


def test_the_hub_does_not_reach_it(notes: Site) -> None:
    assert come(notes, (HUB_PEER, 970), "GET", "/metrics").status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_is_for_reading(notes: Site, method: str) -> None:
    assert notes.ask(method, "/metrics").status_code == 405
    assert notes.ask("HEAD", "/metrics").content == b""


def test_switched_off_there_is_nothing(notes: Site) -> None:
    notes.services.settings = Settings(server=notes.services.settings.server, metrics=MetricsSettings(enabled=False))
    notes.restart()
    answer = notes.ask("GET", "/metrics")
    assert answer.status_code == 404 and "metrics.enabled" in answer.json()["hint"]


# -- that it moves


def test_it_is_the_text_that_prometheus_reads(notes: Site) -> None:
    answer = notes.ask("GET", "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain"})
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    found = values(answer.content)
    assert found["diycloud_agent_up"] == 1 and found["diycloud_database_bytes"] > 50_000
    assert 10e6 < found["process_resident_memory_bytes"] < 4e9 and found["process_cpu_seconds_total"] > 0.1
    assert found["process_open_fds"] > 3 and abs(found["process_start_time_seconds"] - time.time()) < 3600
    assert found["diycloud_users{status=active}"] == 2 and found["diycloud_users{status=deleted}"] == 0


def test_sign_ins_are_counted_by_how_they_end(notes: Site) -> None:
    before = told(notes)
    notes.token("ada", PASSWORD)
    for _ in range(12):
        notes.ask("POST", "/api/v1/auth/login", token="", json={"username": "ada", "password": "wrong wrong wrong"})
    after = told(notes)
    found = moved(before, after, "diycloud_sign_ins_total")
    assert found["diycloud_sign_ins_total{outcome=done}"] == 1
    refused, throttled = (found[f"diycloud_sign_ins_total{{outcome={how}}}"] for how in ("refused", "throttled"))
    assert refused + throttled == 12 and refused >= 3 and throttled >= 1
    assert moved(before, after, "diycloud_sessions") == {"diycloud_sessions{kind=api}": 1}


def test_actions_and_requests_are_counted_by_their_templates(notes: Site) -> None:
    before = told(notes)
    notes.ask("GET", "/api/v1/users/ada")
    notes.ask("GET", "/api/v1/users/nobody-at-all")
    after = told(notes)
    route = "method=GET,route=/api/v1/users/{username}"
    assert moved(before, after, f"diycloud_http_requests_total{{{route}") == {
        f"diycloud_http_requests_total{{{route},status=2xx}}": 1,
        f"diycloud_http_requests_total{{{route},status=4xx}}": 1,
    }
    assert moved(before, after, f"diycloud_http_request_seconds_count{{{route}") == {
        f"diycloud_http_request_seconds_count{{{route}}}": 2
    }
    assert moved(before, after, "diycloud_actions_total{action=user.show") == {
        "diycloud_actions_total{action=user.show,outcome=done}": 1,
        "diycloud_actions_total{action=user.show,outcome=refused}": 1,
    }


def requests_of(site: OpenId) -> dict[str, float]:
    return {key: value for key, value in told(site).items() if key.startswith("diycloud_http_requests_total")}


PATHS = [
    ("/sign-in", "/sign-in"), ("/static/0a/app.css", "/static/{version}/{path}"), ("/users/ada", "/users/{username}"),
    ("/.well-known/openid-configuration", "/.well-known/openid-configuration"), ("/oidc/jwks", "/oidc/jwks"),
    ("/internal/notebooks/guard", "/internal/notebooks/guard"), ("/internal/x", "(none)"), ("/wp-login.php", "(none)"),
    ("/api/v1/nothing", "(none)"), ("/api/users/ada", "/api/users/{username}"), ("/metrics", "/metrics"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "template"), PATHS)
def test_every_kind_of_address_has_its_template(notes: Site, path: str, template: str) -> None:
    before = requests_of(notes)
    come(notes, (UNIX_PEER, 33), "GET", path, headers={"x-forwarded-for": FAR})
    found = moved(before, requests_of(notes), "diycloud")
    own = "diycloud_http_requests_total{method=GET,route=/metrics,status=2xx}"
    found[own] = found.get(own, 0) - 1  # the question itself
    (key,) = [key for key, value in found.items() if value]
    assert f"route={template.replace('{path}', '{path:path}')}," in key or f"route={template}," in key


def test_the_hubs_own_addresses_have_templates(notes: Site) -> None:
    come(notes, HUB, "GET", "/internal/hub/users/ada")
    come(notes, HUB, "GET", "/internal/hub/users/somebody-else")
    assert [key for key in requests_of(notes) if "/internal/hub" in key] == [
        f"diycloud_http_requests_total{{method=GET,route=/internal/hub/users/{{username}},status={status}}}"
        for status in ("2xx", "4xx")
    ]


def test_nobody_can_make_it_grow(notes: Site) -> None:
    def flood(mark: str) -> int:
        for number in range(30):
            for path in ("/{}", "/api/v1/{}", "/api/v1/users/{}", "/static/{}/x", "/internal/{}", "/users/{}/edit"):
                notes.ask("GET", path.format(f"{mark}{number}"), token="")
            notes.ask(f"M{mark.upper()}{number}", "/sign-in", token="")
            sent = {"username": f"{mark}{number}", "password": "x" * 12}
            notes.ask("POST", "/api/v1/auth/login", token="", json=sent)
        return len(told(notes))

    flood("first")
    assert flood("a") == flood("b")


def test_a_crash_counts_as_one(notes: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("diycloud.users.shown.by_name", crash)
    before = told(notes)
    assert notes.ask("GET", "/api/v1/users/ada").status_code == 500
    key = "diycloud_http_requests_total{method=GET,route=/api/v1/users/{username},status=5xx}"
    assert moved(before, told(notes), "diycloud_http_requests_total{method=GET,route=/api") == {key: 1}


# -- notebooks


def tell(site: Site, **event: Any) -> None:
    sent = {"name": "ada", "at": NOW, **event}
    assert come(site, HUB, "POST", "/internal/hub/events", json={"events": [sent]}).status_code == 204


def test_servers_are_told_by_size_and_state_and_by_nobodys_name(notes: Site) -> None:
    notes.host.runs("ada", profile="small", memory=100, started=NOW)
    notes.host.runs("ada", "big", profile="large", memory=300, started=NOW)
    notes.host.runs("bob", profile="small", memory=50, started=NOW)
    notes.host.runs("bob", "old", state="failed", profile="gone-since")
    found = {key: value for key, value in told(notes).items() if "notebook_servers" in key and value}
    assert found == {
        "diycloud_notebook_servers{profile=small,state=running}": 2,
        "diycloud_notebook_servers{profile=large,state=running}": 1,
        "diycloud_notebook_servers{profile=other,state=failed}": 1,
    }
    text = notes.ask("GET", "/metrics").text
    assert "ada" not in text and "bob" not in text
    assert 'diycloud_notebook_memory_bytes{profile="small"} 150.0' in text


def test_names_are_told_only_if_the_settings_say_so(notes: Site) -> None:
    notes.host.runs("ada", "big", profile="large", memory=300, cpu_us=2_500_000, started=NOW)
    notes.host.runs("bob", state="stopped", profile="small")
    known = notes.services.settings
    notes.services.settings = Settings(
        server=known.server, notebooks=known.notebooks, metrics=MetricsSettings(per_user=True)
    )
    notes.restart()
    found = {key: value for key, value in told(notes).items() if "diycloud_user_" in key}
    assert found == {
        "diycloud_user_notebook_memory_bytes{server=big,user=ada}": 300,
        "diycloud_user_notebook_cpu_seconds_total{server=big,user=ada}": 2.5,
    }


def test_starts_and_ends_are_counted_by_why(notes: Site) -> None:
    before = told(notes)
    tell(notes, kind="started", profile="small", seconds=1.2)
    tell(notes, kind="failed", reason="no room", cause="start")
    tell(notes, kind="failed", seconds=9.0, cause="memory")
    tell(notes, kind="stopped", seconds=9.0, by="idle", cause="idle")
    found = moved(before, told(notes), "diycloud_notebook_st")
    assert found.pop("diycloud_notebook_start_seconds_sum") == 1.2
    assert {key: value for key, value in found.items() if "_bucket" not in key} == {
        "diycloud_notebook_start_seconds_count": 1,
        "diycloud_notebook_starts_total{outcome=started}": 1,
        "diycloud_notebook_starts_total{outcome=failed}": 1,
        "diycloud_notebook_stops_total{reason=memory}": 1,
        "diycloud_notebook_stops_total{reason=idle}": 1,
    }


@pytest.mark.parametrize(("who", "reason", "by"), [("ada", "owner", ""), ("root_admin", "administrator", "root_admin")])
def test_an_end_is_counted_and_kept_with_who_asked_for_it(notes: Site, who: str, reason: str, by: str) -> None:
    notes.host.runs("ada", profile="small", started=NOW)
    before, session = told(notes), notes.token(who, PASSWORD)
    assert notes.rest("DELETE", token=session, json={"server_name": ""}).status_code == 200
    tell(notes, kind="stopped", seconds=60.0)
    assert moved(before, told(notes), "diycloud_notebook_stops") == {
        f"diycloud_notebook_stops_total{{reason={reason}}}": 1
    }
    assert notes.by_hand("SELECT outcome, by_whom FROM activity") == [("stopped", by)]


def test_who_is_shut_out_ends_for_that_reason(notes: Site) -> None:
    notes.host.runs("ada", profile="small", started=NOW)
    before = told(notes)
    assert notes.ask("POST", "/api/v1/users/ada/disable", json={}).status_code == 200
    tell(notes, kind="stopped", seconds=60.0)
    assert moved(before, told(notes), "diycloud_notebook_stops") == {
        "diycloud_notebook_stops_total{reason=shut-out}": 1
    }
    assert notes.by_hand("SELECT outcome, by_whom FROM activity") == [("stopped", "system")]


def test_an_end_that_nobody_here_asked_for_is_its_users(notes: Site) -> None:
    before = told(notes)
    tell(notes, kind="stopped", seconds=60.0)
    assert moved(before, told(notes), "diycloud_notebook_stops") == {"diycloud_notebook_stops_total{reason=owner}": 1}


def test_an_agent_that_is_away_is_told_and_the_rest_is_there(notes: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable("The agent does not answer.")

    monkeypatch.setattr(notes.host, "call", away)
    found = told(notes)
    assert found["diycloud_agent_up"] == 0 and found["diycloud_users{status=active}"] == 2
    assert not [key for key in found if key.startswith("diycloud_notebook_servers")]
    assert found["diycloud_metrics_readings_failed_total{reading=notebooks}"] == 1


def test_all_servers_are_one_question(notes: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = [], notes.host._ReadNotebooks
    monkeypatch.setattr(notes.host, "_ReadNotebooks", lambda message: asked.append(message) or answer(message))
    for number in range(100):
        notes.host.runs(f"user{number:03}", profile="small", started=NOW)
    assert told(notes)["diycloud_notebook_servers{profile=small,state=running}"] == 100
    notes.ask("GET", "/metrics")
    assert len(asked) == 1


# -- what it costs others


def test_the_event_loops_lag_is_seen(notes: Site) -> None:
    async def hold_up() -> None:
        task = asyncio.create_task(watch_loop(notes.services.meter))
        await asyncio.sleep(0.4)
        time.sleep(0.3)
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(hold_up())
    found = told(notes)
    assert found["diycloud_event_loop_lag_seconds_count"] == 1 and found["diycloud_event_loop_lag_seconds_sum"] > 0.15


def test_ten_thousand_users_are_read_quickly_and_in_a_thread(notes: Site) -> None:
    rows = [{"username": f"u{number}", "password_hash": "-", "status": "active"} for number in range(10_000)]
    asyncio.run(notes.database.write(lambda connection: connection.execute(insert(users), rows)))
    for index in range(100):
        notes.host.runs(f"u{index}", profile="small", started=NOW)
    for path, _ in PATHS:
        notes.ask("GET", path)

    async def look() -> tuple[float, float, httpx.Response]:
        await notes.send("GET", "/metrics")  # what is loaded the first time
        notes.services.meter._at = float("-inf")  # type: ignore[attr-defined]
        late, done = [0.0], asyncio.Event()

        async def watch() -> None:
            while not done.is_set():
                due = time.perf_counter() + 0.001
                await asyncio.sleep(0.001)
                late.append(time.perf_counter() - due)

        task = asyncio.create_task(watch())
        started = time.perf_counter()
        answer = await notes.send("GET", "/metrics")
        seconds = time.perf_counter() - started
        done.set()
        await task
        return seconds, max(late), answer

    seconds, late, answer = asyncio.run(look())
    assert values(answer.content)["diycloud_users{status=active}"] == 10_002
    assert seconds < 0.5 and late < 0.25, f"{seconds * 1e3:.1f} ms, others {late * 1e3:.1f} ms late"  # under load, too


def test_the_table_of_the_server_is_what_it_tells(notes: Site) -> None:
    known = {metric.name for metric in metrics.METRICS} | {m.name for r in metrics.READERS for m in r.metrics}
    told_names = {key.partition("{")[0] for key in told(notes)}
    stems = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in told_names}
    assert {name for name in stems if name.startswith("diycloud_")} <= known
