"""An administrator's page of who a user is elsewhere: seen, linked, unlinked; and by whom not."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from diycloud.config_sign_in import LdapSettings, ProviderSettings, SignInSettings
from diycloud.db.engine import Database

from .restful import ADMIN, PASSWORD, World
from .test_account_pages import Browser, stale

HERE = "/users/ada/identities"
UNI = ProviderSettings(
    name="uni", label="The University", issuer="https://idp.example.org", client_id="c", client_secret_file="/nowhere"
)
NOBODY_THERE = LdapSettings(
    urls=("ldap://127.0.0.1:9",), user_base="dc=example,dc=org", starttls=False, timeout_s=0.2, label="the faculty"
)


@pytest.fixture
def world(database: Database) -> World:
    made = World(database, sign_in=SignInSettings(providers=(UNI,)), host_name="cloud.test")
    fill(made)
    return made


def fill(world: World) -> None:
    world.first_admin()
    for name, role in (("ada", "user"), ("head", "domain-admin"), ("watcher", "monitor")):
        sent = {"username": name, "password": PASSWORD, "role": role, "must_change_password": False}
        assert world.ask("POST", "/api/v1/users", json=sent).status_code == 201


def by(world: World, name: str = ADMIN) -> Browser:
    browser = Browser(world)
    assert browser.sign_in(name, PASSWORD).status_code == 303
    return browser


def links(world: World) -> list[tuple[object, ...]]:
    return list(world.sql("SELECT provider, subject FROM identities ORDER BY id"))


def test_a_user_is_linked_seen_and_unlinked(world: World) -> None:
    admin = by(world)
    assert HERE in admin.get("/users/ada").text
    page = admin.get(HERE).text
    assert "signs in with a password here" in page and "The University" in page and 'name="name_there"' not in page
    done = admin.post(HERE, {"provider": "uni", "subject": " s-1 "})
    assert (done.status_code, done.headers["location"]) == (303, HERE) and links(world) == [("uni", "s-1")]
    page = admin.get(HERE).text
    assert "<code>s-1</code>" in page and "never" in page and f'action="{HERE}/unlink"' in page
    assert f'action="{HERE}"' not in page, "there is nobody else to link them to"
    token = world.token("ada", PASSWORD)
    gone = admin.post(f"{HERE}/unlink", {"provider": "uni"})
    assert gone.status_code == 303 and links(world) == []
    assert world.ask("GET", "/api/v1/auth/whoami", token=token).status_code == 401, "what it opened is closed"


def test_what_cannot_be_is_said_and_what_was_typed_stays(world: World) -> None:
    admin = by(world)
    admin.post(HERE, {"provider": "uni", "subject": "s-1"})
    taken = admin.post("/users/watcher/identities", {"provider": "uni", "subject": "s-1"})
    assert taken.status_code == 422 and "Another user is linked" in taken.text and 'value="s-1"' in taken.text
    for sent in ({"provider": "uni"}, {"provider": "uni", "subject": "a\x07b"}, {"provider": "UNI!", "subject": "s"}):
        assert admin.post("/users/head/identities", dict(sent)).status_code == 422
    assert admin.post(f"{HERE}/unlink", {"provider": "nobody"}).status_code == 303
    assert admin.get("/users/nobody/identities").status_code == 404
    assert links(world) == [("uni", "s-1")]


def test_a_link_waits_for_a_fresh_proof_and_is_not_lost(world: World) -> None:
    admin = by(world)
    stale(world)
    asked = admin.post(HERE, {"provider": "uni", "subject": "s-1"})
    assert asked.status_code == 403 and links(world) == []
    kept = unescape(re.findall(r'name="kept" value="([^"]*)"', asked.text)[0])
    again = admin.post("/confirm", {"password": PASSWORD, "kept": kept}).text
    sent = {name: unescape(value) for name, value in re.findall(r'name="([a-z_]+)" value="([^"]*)"', again)}
    assert sent.pop("csrf") and sent == {"provider": "uni", "subject": "s-1"}
    assert admin.post(HERE, dict(sent)).status_code == 303 and links(world) == [("uni", "s-1")]


def test_others_see_what_they_may_and_link_nobody(world: World) -> None:
    by(world).post(HERE, {"provider": "uni", "subject": "s-1"})
    watcher, head, ada = by(world, "watcher"), by(world, "head"), by(world, "ada")
    seen = watcher.get(HERE).text
    assert "<code>s-1</code>" in seen and "/unlink" not in seen and f'action="{HERE}"' not in seen
    assert watcher.post(f"{HERE}/unlink", {"provider": "uni"}).status_code == 403
    assert f'action="{HERE}"' not in head.get(HERE).text
    sent: dict[str, Any] = {"provider": "other", "subject": "s-2"}
    assert [who.post(HERE, dict(sent)).status_code for who in (watcher, head)] == [403, 403]
    assert ada.get("/users/head/identities").status_code == 403
    assert links(world) == [("uni", "s-1")]


def test_a_directory_is_asked_by_name_and_need_not_answer(database: Database) -> None:
    world = World(database, sign_in=SignInSettings(ldap=NOBODY_THERE), host_name="cloud.test")
    fill(world)
    admin = by(world)
    page = admin.get(HERE).text
    assert 'name="name_there"' in page and "the faculty" in page
    down = admin.post(HERE, {"provider": "ldap", "name_there": "ada"})
    assert down.status_code == 422 and 'value="ada"' in down.text and links(world) == []
    assert admin.post(HERE, {"provider": "ldap", "subject": "u-1"}).status_code == 303
    assert links(world) == [("ldap", "u-1")]


def test_without_others_nothing_leads_there(database: Database) -> None:
    world = World(database, host_name="cloud.test")
    fill(world)
    admin = by(world)
    assert HERE not in admin.get("/users/ada").text and admin.get(HERE).status_code == 200
