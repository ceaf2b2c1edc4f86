"""The portal's pages of users, groups, domains, policies and audit, as each role sees and uses them.

The whole application on a real database; the agent is away, so what needs the host waits, and the pages say so.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Connection, insert, select

from diycloud.actions.services import Services
from diycloud.agent.client import Client
from diycloud.auth import sessions
from diycloud.auth.passwords import Hasher
from diycloud.auth.throttle import Throttle
from diycloud.config import Settings
from diycloud.db.engine import Database
from diycloud.db.tables import domains, group_members, groups, policies, users
from diycloud.users import repository
from diycloud.users.models import Allocation
from diycloud.web.app import make_app
from diycloud.web.identity import COOKIE, UNIX_PEER

PEOPLE = (
    ("boss", "admin", "default"),
    ("head", "domain-admin", "physics"),
    ("watcher", "monitor", "default"),
    ("ada", "user", "physics"),
    ("carol", "user", "default"),
)
LISTS = ("/users", "/groups", "/policies", "/domains", "/audit")
FORMS = ("/new-user", "/new-group", "/new-policy", "/new-domain", "/import", "/users/ada/edit", "/policies/default")
OK, NO = 200, 403


class Visitor:
    """Somebody who is signed in at the portal."""

    def __init__(self, app: object, token: str) -> None:
        self._app, self._cookies = app, {COOKIE: token}

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self._send("GET", path, None))

    def post(self, path: str, **fields: str | list[str]) -> httpx.Response:
        csrf = re.search(r'name="csrf" value="([^"]+)"', self.get("/account").text)
        assert csrf
        return asyncio.run(self._send("POST", path, {"csrf": csrf[1], **fields}))

    async def _send(self, method: str, path: str, data: dict[str, str | list[str]] | None) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, client=(UNIX_PEER, 33), raise_app_exceptions=True)  # type: ignore[arg-type]
        headers = {"X-Forwarded-For": "192.0.2.7", "Sec-Fetch-Site": "same-origin"}
        async with httpx.AsyncClient(
            transport=transport, base_url="https://cloud.test", headers=headers, cookies=self._cookies
        ) as client:
            return await client.request(method, path, data=data)


def fill(connection: Connection) -> dict[str, str]:
    connection.execute(insert(policies).values(name="students", cpu=0.5, memory="1G", max_cpu=1.0, max_memory="2G"))
    connection.execute(insert(domains).values(name="physics", policy="students"))
    tokens = {}
    for name, role, domain in PEOPLE:
        row = {
            "username": name,
            "password_hash": "-",
            "role": role,
            "status": "active",
            "domain": domain,
            "uid": 20_000,
        }
        user_id = repository.add(
            connection, row | {"policy": "students" if domain == "physics" else "default"}, Allocation()
        )
        begun = {"now": 2_000_000_000, "max_s": 10**9, "kind": "browser", "address": "", "user_agent": ""}
        tokens[name] = sessions.begin(connection, user_id, **begun)
    connection.execute(insert(groups).values(name="lab", domain="physics", gid=10_000))
    connection.execute(insert(groups).values(name="office", domain="default", gid=10_001))
    ada = repository.by_name(connection, "ada")
    assert ada
    connection.execute(insert(group_members).values(group_id=1, user_id=ada.id))
    connection.execute(users.update().values(host_generation=users.c.generation))
    return tokens


@pytest.fixture
def visit(database: Database, tmp_path: Path) -> Iterator[Callable[[str], Visitor]]:
    tokens = asyncio.run(database.write(fill))
    hasher = Hasher(threads=1)
    agent = Client(tmp_path / "nobody.sock")
    services = Services(database=database, agent=agent, hasher=hasher, throttle=Throttle(), settings=Settings())
    app = make_app(services, background=False)
    yield lambda name: Visitor(app, tokens[name])
    hasher.close()


@pytest.mark.parametrize(
    ("who", "lists", "forms"),
    [
        ("boss", (OK, OK, OK, OK, OK), (OK, OK, OK, OK, OK, OK, OK)),
        ("head", (OK, OK, OK, OK, OK), (OK, OK, NO, NO, OK, OK, OK)),
        ("watcher", (OK, OK, OK, OK, OK), (NO, NO, NO, NO, NO, NO, OK)),
        ("ada", (NO, NO, NO, NO, NO), (NO, NO, NO, NO, NO, NO, NO)),
    ],
)
def test_each_role_sees_its_pages(visit: Callable[[str], Visitor], who: str, lists: tuple, forms: tuple) -> None:
    visitor = visit(who)
    assert visitor.get("/").status_code == visitor.get("/account").status_code == OK
    assert tuple(visitor.get(path).status_code for path in LISTS) == lists
    assert tuple(visitor.get(path).status_code for path in FORMS) == forms


def test_a_domains_administrator_sees_the_domain_only(visit: Callable[[str], Visitor]) -> None:
    head = visit("head")
    text = head.get("/users").text
    assert "ada" in text
    assert "carol" not in text
    assert "office" not in head.get("/groups").text
    assert head.get("/groups/office").status_code == head.get("/users/carol").status_code == NO
    assert head.get("/users/carol/edit").status_code == NO
    export = head.get("/export/users?format=csv").text
    assert "ada" in export
    assert "carol" not in export


def test_a_form_offers_only_what_may_be_done(visit: Callable[[str], Visitor]) -> None:
    head, boss = visit("head").get("/users/ada/edit").text, visit("boss").get("/users/ada/edit").text
    for field in ("role", "domain", "policy", "container_uid", "external_id"):
        assert f'name="{field}"' in boss
        assert f'name="{field}"' not in head
    assert "/users/ada/disable" not in visit("watcher").get("/users/ada").text


def test_a_user_is_made_with_the_domains_policy(visit: Callable[[str], Visitor]) -> None:
    head = visit("head")
    made = head.post("/new-user", username="eve", full_name="Eve", groups="lab", cpu="", memory="")
    assert made.status_code == 201
    page = head.get("/users/eve").text
    assert "students" in page
    assert ">lab<" in page
    refused = head.post("/new-user", username="mallory", cpu="2")
    assert refused.status_code == 422
    assert "at most 1 by the policy students" in refused.text


def test_an_edit_changes_what_was_changed_and_no_more(visit: Callable[[str], Visitor]) -> None:
    boss = visit("boss")
    form = boss.get("/users/ada/edit").text
    values = dict(re.findall(r'<input class="input"[^>]* name="([^"]+)"[^>]* value="([^"]*)"', form))
    assert values["groups"] == "lab"
    done = boss.post(
        "/users/ada/edit",
        **{name: value for name, value in values.items() if name != "password"} | {"full_name": "Ada Lovelace"},
        role="user", domain="physics", policy="students",
    )  # fmt: skip
    assert done.status_code == 303, done.text
    entry = boss.get("/audit/export?format=json&action=user.modify").text
    assert '"changes":{"full_name":["","Ada Lovelace"]}' in entry


def test_networks_that_lock_out_oneself_ask_first(visit: Callable[[str], Visitor]) -> None:
    boss = visit("boss")
    asked = boss.post("/users/boss/edit", allowed_client_ip="10.0.0.0/8")
    assert asked.status_code == 422
    assert "lock you out" in asked.text
    assert boss.post("/users/boss/edit", allowed_client_ip="10.0.0.0/8, 192.0.2.0/24").status_code == 303
    assert boss.get("/users").status_code == OK
    assert boss.post("/users/boss/edit", allowed_client_ip="10.0.0.0/8", force="true").status_code == 303
    assert boss.get("/users").status_code == 401


def test_a_policy_is_made_changed_and_removed(visit: Callable[[str], Visitor]) -> None:
    boss = visit("boss")
    wrong = boss.post("/new-policy", name="staff", cpu="4", memory="8G", disk="20G", tasks="512", max_cpu="2")
    assert wrong.status_code == 422
    made = boss.post(
        "/new-policy", name="staff", cpu="4", memory="8G", disk="20G", tasks="512", max_memory="16G", max_gpu="on"
    )
    assert made.headers["location"] == "/policies"
    page = boss.get("/policies/staff").text
    assert 'value="16G"' in page
    cleared = boss.post("/policies/staff", cpu="2", memory="8G", disk="20G", tasks="512", max_memory="")
    assert cleared.status_code == 303
    assert 'value="16G"' not in boss.get("/policies/staff").text
    assert boss.post("/policies/students/remove").headers["location"] == "/policies/students", "it is in use"
    boss.post("/policies/staff/remove")
    assert boss.get("/policies/staff").status_code == 404


def test_a_domain_is_made_changed_and_removed(visit: Callable[[str], Visitor]) -> None:
    boss = visit("boss")
    assert boss.post("/new-domain", name="chemistry", policy="students").status_code == 303
    assert boss.post("/domains/chemistry", description="Wet", policy="default").status_code == 303
    assert "Wet" in boss.get("/domains").text
    assert boss.post("/domains/physics/remove").headers["location"] == "/domains/physics"
    boss.post("/domains/chemistry/remove")
    assert boss.get("/domains/chemistry").status_code == 404


def test_members_come_and_go(visit: Callable[[str], Visitor]) -> None:
    boss = visit("boss")
    wrong = boss.post("/groups/lab/add", members="carol, nobody")
    assert wrong.status_code == 422
    assert "carol" in wrong.text
    assert boss.post("/groups/lab/add", members="head").status_code == 303
    assert "/users/head" in boss.get("/groups/lab").text
    assert boss.post("/groups/lab/leave", members="head").status_code == 303
    assert "/users/head" not in boss.get("/groups/lab").text


def test_people_look_after_their_own_keys(visit: Callable[[str], Visitor]) -> None:
    ada = visit("ada")
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGLo0uJDu3ewRPzSZJVyHtB5p5dz3aRWUJ1vKwbRRWOi laptop"
    assert ada.post("/account/keys", key="-----BEGIN OPENSSH PRIVATE KEY-----").status_code == 422
    assert ada.post("/account/keys", key=key).status_code == 303
    shown = ada.get("/account/keys").text
    assert "laptop" in shown
    fingerprint = re.search(r'name="fingerprint" value="([^"]+)"', shown)
    assert fingerprint
    assert ada.post("/account/keys/remove", fingerprint=fingerprint[1]).status_code == 303
    assert "laptop" not in ada.get("/account/keys").text
    assert ada.post("/users/carol/keys", key=key).status_code == NO


def test_the_audit_is_searched_and_exported(visit: Callable[[str], Visitor]) -> None:
    boss = visit("boss")
    boss.post("/users/ada/sign-out")
    assert "session.end-all" in boss.get("/audit?search=sessions&since=2020-01-01").text
    assert "session.end-all" not in boss.get("/audit?until=2020-01-01").text
    export = boss.get("/audit/export?format=csv")
    assert export.headers["content-disposition"].startswith("attachment")
    assert "session.end-all" in export.text


def test_each_home_shows_what_its_owner_looks_after(visit: Callable[[str], Visitor]) -> None:
    boss, head, ada = (visit(name).get("/").text for name in ("boss", "head", "ada"))
    assert "Promised" in boss
    assert "Promised" not in head
    assert "You look after the domain <b>physics</b>" in head
    assert re.findall(r"<dt>(Users|Active)</dt><dd><a[^>]*>(\d+)<", head) == [("Users", "2"), ("Active", "2")]
    assert re.findall(r"<dt>(Users|Active)</dt><dd><a[^>]*>(\d+)<", boss) == [("Users", "5"), ("Active", "5")]
    assert "/srv/" in ada or "/lab<" in ada
    assert "office" not in ada


def test_changes_to_many_are_shown_before_they_are_done(visit: Callable[[str], Visitor]) -> None:
    boss = visit("boss")
    shown = boss.post("/change-users", user=["ada", "carol", "nobody"], do="disable")
    assert shown.status_code == OK
    assert "Disable: 2 users" in shown.text
    assert shown.text.count("has-error") == 1
    assert 'badge-active">active' in boss.get("/users/ada").text
    done = boss.post("/change-users", user=["ada", "carol", "nobody"], do="disable", confirm="1")
    assert "Done, with refusals" in done.text
    for name in ("ada", "carol"):
        assert 'badge-inactive">disabled' in boss.get(f"/users/{name}").text


def test_changes_to_many_stay_within_the_domain(visit: Callable[[str], Visitor]) -> None:
    head = visit("head")
    done = head.post("/change-users", user=["ada", "carol", "boss"], do="delete", confirm="1")
    assert done.text.count("has-error") == 2
    statuses = [visit("boss").get(f"/users/{name}").text for name in ("carol", "boss")]
    assert all('badge-active">active' in text for text in statuses)
    assert head.post("/change-users", user="ada", do="group").text.count('name="group"') == 1
    assert visit("watcher").post("/change-users", user="ada", do="disable").status_code == NO


def crowd(database: Database, count: int = 120) -> None:
    """Add users of both domains, more than a page has."""

    def add(connection: Connection) -> None:
        for number in range(count):
            row = {"username": f"u{number:03}", "password_hash": "-", "status": "active", "full_name": "Crowd"}
            row |= {"domain": "physics" if number % 2 else "default"}
            repository.add(connection, row, Allocation())

    asyncio.run(database.write(add))


def statuses(database: Database) -> dict[str, set[str]]:
    query = select(users.c.username, users.c.status)
    found: dict[str, set[str]] = {}
    for name, status in database.read_now(lambda c: c.execute(query).all()):
        found.setdefault(status, set()).add(name)
    return found


def hidden(text: str) -> dict[str, str]:
    """Return what the page's form carries along."""
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text))
    return {name: unescape(value) for name, value in fields.items() if name != "csrf"}


def test_all_that_match_are_offered_where_a_page_does_not_hold_them(
    visit: Callable[[str], Visitor], database: Database
) -> None:
    boss, head = visit("boss"), visit("head")
    assert 'name="everyone"' not in boss.get("/users").text, "all are on this page"
    crowd(database)
    assert 'name="everyone" value="125"' in boss.get("/users").text
    assert 'name="everyone" value="62"' in head.get("/users").text, "of the domain"
    found = boss.get("/users?search=crowd&domain=physics&fragment=1").text
    assert 'name="everyone" value="60"' in found and "All 60 users that match" in found
    assert 'name="filter" value="search=crowd&amp;domain=physics"' in found
    assert 'name="everyone"' not in boss.get("/users?search=u01").text
    assert 'name="everyone"' not in visit("watcher").get("/users").text


def test_all_that_match_are_shown_then_changed(visit: Callable[[str], Visitor], database: Database) -> None:
    boss = visit("boss")
    crowd(database)
    shown = boss.post(
        "/change-users", user=["u000", "u001"], do="disable", everyone="60", filter="domain=physics&search=u"
    )
    assert shown.status_code == OK and "Disable: 60 users" in shown.text and "Other users match" not in shown.text
    assert statuses(database).keys() == {"active"}, "nothing is done before it is confirmed"
    done = boss.post("/change-users", **hidden(shown.text), confirm="1")
    assert ">Done</h2>" in done.text and "60 of 60" in done.text
    assert statuses(database)["inactive"] == {f"u{number:03}" for number in range(1, 120, 2)}
    again = boss.post("/change-users", do="enable", everyone="60", filter="status=inactive")
    boss.post("/change-users", **hidden(again.text), confirm="1")
    assert statuses(database).keys() == {"active"}


def test_all_that_match_are_looked_up_again_before_it_is_done(
    visit: Callable[[str], Visitor], database: Database
) -> None:
    """Somebody who came to match meanwhile, or in the place of somebody else, is shown first."""
    boss = visit("boss")
    crowd(database)
    told = boss.post("/change-users", do="disable", everyone="59", filter="domain=physics&search=crowd")
    assert "they were 59, they are 60" in told.text
    asyncio.run(
        database.write(
            lambda c: c.exec_driver_sql(
                "UPDATE users SET domain = CASE username WHEN 'u000' THEN 'physics' ELSE 'default' END"
                " WHERE username IN ('u000', 'u001')"
            )
        )
    )
    late = boss.post("/change-users", **hidden(told.text), confirm="1")
    assert "Other users match by now" in late.text and "Disable: 60 users" in late.text
    assert statuses(database).keys() == {"active"}
    boss.post("/change-users", **hidden(late.text), confirm="1")
    found = statuses(database)["inactive"]
    assert len(found) == 60 and "u000" in found and "u001" not in found


def test_all_that_match_are_those_of_who_asks(visit: Callable[[str], Visitor], database: Database) -> None:
    """What the form says of the filter is anybody's word: the reach is that of who sends it."""
    crowd(database)
    head = visit("head")
    shown = head.post("/change-users", do="delete", everyone="62", filter="search=u")
    assert "Delete: 60 users" in shown.text and "they are 60" in shown.text
    head.post("/change-users", **hidden(shown.text), confirm="1")
    assert statuses(database)["deleted"] == {f"u{number:03}" for number in range(1, 120, 2)}
    for query in ("domain=default", "domain=nowhere"):
        assert head.post("/change-users", do="delete", everyone="60", filter=query).status_code == NO
    assert head.post("/change-users", do="delete", everyone="60", filter="status=odd").status_code == 422
    for who in ("watcher", "ada"):
        assert visit(who).post("/change-users", do="delete", everyone="60", filter="", confirm="1").status_code == NO
    boss = visit("boss")
    assert boss.post("/change-users", do="delete", everyone="0", filter="search=nobody").headers["location"] == "/users"


def test_all_that_match_get_a_group_and_a_policy(visit: Callable[[str], Visitor], database: Database) -> None:
    boss = visit("boss")
    crowd(database)
    chosen = {"everyone": "60", "filter": "search=crowd&domain=physics"}
    for verb, answer in (("group", {"group": "lab"}), ("policy", {"policy": "students", "limits": "true"})):
        asked = boss.post("/change-users", do=verb, **chosen)
        assert f'name="{verb}"' in asked.text
        shown = boss.post("/change-users", **hidden(asked.text), **answer)
        assert f"{'Put into a group' if verb == 'group' else 'Give a policy'}: 60 users" in shown.text
        done = boss.post("/change-users", **hidden(shown.text), confirm="1")
        assert ">Done</h2>" in done.text
    assert 'value="61"' in boss.get("/users?group=lab").text, "ada was in it"
    assert "<dd>students</dd>" in boss.get("/users/u001").text and "<dd>0.5 cores</dd>" in boss.get("/users/u001").text


def test_a_page_of_changes_to_many_ends_somewhere(visit: Callable[[str], Visitor], database: Database) -> None:
    boss = visit("boss")
    crowd(database, 620)
    boss.post("/change-users", user="u619", do="disable", confirm="1")
    shown = boss.post("/change-users", do="disable", everyone="620", filter="search=crowd").text
    assert shown.count('class="row-link"') == 500 and "120 more, with nothing in the way" in shown
    assert shown.index("u619") < shown.index("u000"), "what has something in the way comes first"


def test_what_a_change_to_many_still_needs_is_asked_for(visit: Callable[[str], Visitor]) -> None:
    boss = visit("boss")
    assert boss.post("/change-users", do="disable").headers["location"] == "/users"
    assert boss.post("/change-users", user="ada", do="explode").headers["location"] == "/users"
    asked = boss.post("/change-users", user=["carol"], do="policy")
    assert '<option value="students"' in asked.text
    assert boss.post("/change-users", user="carol", do="group", group="").status_code == 422
    assert "no such policy" in boss.post("/change-users", user="carol", do="policy", policy="x", limits="true").text
    boss.post("/change-users", user="carol", do="policy", policy="students", limits="true", confirm="1")
    carol = boss.get("/users/carol").text
    assert "<dd>students</dd>" in carol
    assert "<dd>0.5 cores</dd>" in carol
    boss.post("/users/carol/edit", cpu="0.25", memory="1G", disk="5G", tasks="512")
    boss.post("/change-users", user="carol", do="apply", confirm="1")
    assert "<dd>0.5 cores</dd>" in boss.get("/users/carol").text


def test_an_import_takes_an_export_back(visit: Callable[[str], Visitor]) -> None:
    boss = visit("boss")
    export = boss.get("/export/users?format=json").text
    refused = boss.post("/import", csv=export)
    assert refused.text.count("has-error") == len(PEOPLE)
    same = boss.post("/import", csv=export, update="true")
    assert same.status_code == OK, same.text
    assert f"Change {len(PEOPLE)} users" in same.text
    changed = export.replace('"full_name":null', '"full_name":"Somebody"', 1)
    done = boss.post("/import", csv=changed, update="true", confirm="1")
    assert "Import of 5 users" in done.text
    assert done.text.rstrip().endswith("</html>")
    assert "Somebody" in boss.get("/users?search=somebody").text


@pytest.mark.parametrize("text", ["[1]", '{"username": "ada"}', '[{"username": ', "[" * 5000, '[{"a": 1, "a": 2}]'])
def test_what_is_no_list_of_users_is_told_so(visit: Callable[[str], Visitor], text: str) -> None:
    answer = visit("boss").post("/import", csv=text)
    assert answer.status_code == 422
    assert 'name="csv"' in answer.text
