"""Signing in with the password of a real directory (OpenLDAP's slapd), by REST and at the portal: who gets in, and as whom."""

from __future__ import annotations

import asyncio
import json
import pwd
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyotp
import pytest

from diycloud.auth.outside.gateway import Outside
from diycloud.auth.outside.ldap import Directory
from diycloud.config_sign_in import LdapSettings, SignInSettings
from diycloud.core import doctor
from diycloud.core.installation import Installation
from diycloud.core.options import InstallOptions
from diycloud.db.engine import Database
from diycloud.errors import Unavailable
from diycloud.system import Local
from tests import directory as slapd
from tests.app.restful import ADMIN, PASSWORD, World
from tests.conftest import cannot_run
from tests.directory import GROUPS, PEOPLE, READER_DN, Slapd
from tests.host.people import signs_in
from tests.stack import Stack
from tests.waiting import free_port

pytestmark = pytest.mark.skipif(bool(slapd.cannot_run()), reason=slapd.cannot_run() or "-")
SECRET = "the directory's good phrase"
LOGIN = "/api/v1/auth/login"


@pytest.fixture(scope="module")
def ldap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    with Slapd(tmp_path_factory.mktemp("slapd") / "directory") as running:
        for uid in ("dtouada", "dtoubob", "dtoucarol", "dtouplain", "admin", "root", "dtou.dotted"):
            running.add_person(uid, SECRET, mail=f"{uid}@example.org", name=f"The {uid}")
        running.add_group("staff", "dtouada", "dtoubob")
        running.add_group("heads", "dtouada")
        yield running


def settings(ldap: Slapd, **more: Any) -> LdapSettings:
    given = {
        "urls": (f"ldaps://127.0.0.1:{ldap.tls_port}",), "user_base": PEOPLE, "bind_dn": READER_DN,
        "bind_password_file": str(ldap.password_file), "ca_file": str(ldap.ca_file), "timeout_s": 5.0,
    }  # fmt: skip
    return LdapSettings(**{**given, **more})


Make = Callable[..., World]


@pytest.fixture
def make(database: Database, ldap: Slapd) -> Iterator[Make]:
    """Make a server that knows the directory, by these settings."""
    made: list[World] = []

    def world(**more: Any) -> World:
        found = World(database, sign_in=SignInSettings(ldap=settings(ldap, **more)))
        found.first_admin()
        made.append(found)
        return found

    yield world
    for each in made:
        assert isinstance(each.services.outside, Outside)
        asyncio.run(each.services.outside.close())


def login(world: World, name: str, password: str = SECRET, address: str = "192.0.2.7") -> httpx.Response:
    return world.ask("POST", LOGIN, json={"username": name, "password": password}, token="", address=address)


def user(world: World, name: str) -> dict[str, Any]:
    found = world.ask("GET", f"/api/v1/users/{name}")
    assert found.status_code == 200, found.text
    return dict(found.json())


def create(world: World, name: str, **more: Any) -> None:
    sent = {"username": name, "password": "their own good phrase", "must_change_password": False, **more}
    done = world.ask("POST", "/api/v1/users", json=sent)
    assert done.status_code == 201, done.text


def identities(world: World, name: str) -> list[dict[str, Any]]:
    return list(world.ask("GET", f"/api/v1/users/{name}/identities").json()["identities"])


def test_a_user_is_made_signs_in_and_is_found_again_under_another_name(make: Make, ldap: Slapd) -> None:
    world = make(create=True, trust_email=True)
    first = login(world, "dtouada")
    assert first.status_code == 200, first.text
    made = user(world, "dtouada")
    assert (made["full_name"], made["email"], made["role"]) == ("The dtouada", "dtouada@example.org", "user")
    linked = identities(world, "dtouada")
    assert [one["provider"] for one in linked] == ["ldap"]
    assert made["external_id"] == f"ldap:{linked[0]['subject']}"
    ldap.modify(f"dn: uid=dtouada,{PEOPLE}\nchangetype: modrdn\nnewrdn: uid=dtoulove\ndeleteoldrdn: 1\n")
    try:
        assert login(world, "dtoulove").json()["username"] == "dtouada"  # by the name they have there now
        assert login(world, "dtouada").json()["username"] == "dtouada"  # and by the one they have here
    finally:
        ldap.modify(f"dn: uid=dtoulove,{PEOPLE}\nchangetype: modrdn\nnewrdn: uid=dtouada\ndeleteoldrdn: 1\n")


def test_the_portals_own_form_takes_it(make: Make) -> None:
    world = make(create=True)
    form = {"username": "dtoubob", "password": SECRET, "next": "/", "csrf": ""}
    done = world.ask("POST", "/sign-in", data=form, token="")
    assert done.status_code == 303 and done.headers["location"] == "/", done.text
    assert "__Host-diycloud=" in done.headers["set-cookie"]


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("dtouada", "wrong"), ("dtouada", ""), ("nobody", SECRET), ("*", SECRET), ("dtou*", SECRET), ("", SECRET),
        ("dtouada)(uid=*", SECRET), ("dtouada)(|(uid=dtouada", SECRET), ("dtouada\x00", SECRET), ("dtouada\\2a", SECRET),
        (f"uid=dtouada,{PEOPLE}", SECRET), ("dtouada", SECRET + " "), ("dtouada,", SECRET), ("ä" * 70, SECRET),
    ],
)  # fmt: skip
def test_everybody_else_is_refused_in_the_same_words(make: Make, name: str, password: str) -> None:
    world = make(create=True)
    told = login(world, name, password)
    known = login(world, "no-such-user", "wrong", address="192.0.2.8")
    assert told.status_code == known.status_code == 401
    same = {key: value for key, value in told.json().items() if key not in ("instance", "request_id")}
    assert same == {key: value for key, value in known.json().items() if key not in ("instance", "request_id")}
    assert world.ask("GET", "/api/v1/users").json()["total"] == 1


def test_without_a_rule_nobody_is_made_and_only_who_has_the_password_is_told_so(make: Make) -> None:
    world = make()
    told = login(world, "dtouada")
    assert told.status_code == 401 and "no account here" in told.text and "Ask an administrator" in told.text
    assert "no account here" not in login(world, "dtouada", "wrong").text


def test_reserved_names_and_names_that_cannot_be_are_not_made(make: Make) -> None:
    world = make(create=True)
    assert login(world, "root").status_code == 401
    assert login(world, "dtou.dotted").json()["username"] == "dtou-dotted"
    assert login(world, "admin").status_code == 401, "the administrator's name is taken"
    assert world.ask("GET", "/api/v1/users").json()["total"] == 2


def test_linking_by_name_takes_plain_users_only(make: Make) -> None:
    """Who has an administrator's name in the directory is nobody here."""
    world = make(link="username")
    for name, more in (
        ("dtouada", {}), ("dtoubob", {"role": "monitor"}), ("dtoucarol", {"role": "domain-admin"}),
    ):  # fmt: skip
        create(world, name, **more)
    assert login(world, "dtouada").status_code == 200
    for name in ("dtoubob", "dtoucarol", ADMIN):
        assert login(world, name).status_code == 401
        assert identities(world, name) == []
    assert login(world, "dtouada", "their own good phrase").status_code == 401, "the directory keeps the password now"
    assert login(world, "dtoubob", "their own good phrase").status_code == 200
    assert login(world, ADMIN, PASSWORD).status_code == 200


def test_linking_by_address_takes_it_from_nobody_who_is_linked(make: Make) -> None:
    world = make(link="email", trust_email=True)
    create(world, "dtoudora", email="DTOUADA@example.org")
    assert login(world, "dtouada").json()["username"] == "dtoudora"
    world.ask("PATCH", "/api/v1/users/dtoudora", json={"email": "dtoubob@example.org"})
    assert login(world, "dtoubob").status_code == 401, "dtoudora is somebody else there"


def test_administrators_are_linked_by_administrators(make: Make) -> None:
    world = make()
    linked = world.ask("POST", f"/api/v1/users/{ADMIN}/identities", json={"provider": "ldap", "name_there": "dtoubob"})
    assert linked.status_code == 200, linked.text
    assert login(world, ADMIN, SECRET).json()["username"] == ADMIN
    assert login(world, ADMIN, PASSWORD).status_code == 401
    twice = world.ask("POST", f"/api/v1/users/{ADMIN}/identities", json={"provider": "ldap", "name_there": "dtouada"})
    assert twice.status_code == 409
    gone = world.ask("DELETE", f"/api/v1/users/{ADMIN}/identities", json={"provider": "ldap"})
    assert gone.status_code == 200, gone.text
    assert login(world, ADMIN, PASSWORD).status_code == 200


def test_groups_roles_and_domains_follow_the_directory(make: Make, ldap: Slapd) -> None:
    world = make(
        create=True,
        groups={f"cn=Staff, {GROUPS}": ("dtougrp", "dtounone"), "nothing": ("dtouother",)},
        roles={"heads": "monitor"},
    )
    for name in ("dtougrp", "dtouother", "dtouown"):
        assert world.ask("POST", "/api/v1/groups", json={"name": name}).status_code == 201
    assert login(world, "dtouada").status_code == 200
    found = user(world, "dtouada")
    assert (found["groups"], found["role"]) == (["dtougrp"], "monitor")
    world.ask("POST", "/api/v1/groups/dtouown/members", json={"members": ["dtouada"]})
    ldap.set_members("staff", "dtoubob")
    ldap.set_members("heads", "dtoubob")
    try:
        assert login(world, "dtouada").status_code == 200
        found = user(world, "dtouada")
        assert (found["groups"], found["role"]) == (["dtouown"], "user")
    finally:
        ldap.set_members("staff", "dtouada", "dtoubob")
        ldap.set_members("heads", "dtouada")


def test_only_some_groups_may_come(make: Make) -> None:
    world = make(create=True, only=("heads",))
    assert login(world, "dtouada").status_code == 200
    assert login(world, "dtoubob").status_code == 401
    assert world.ask("GET", "/api/v1/users").json()["total"] == 2


def test_who_is_disabled_here_stays_out_and_who_is_gone_there_too(make: Make, ldap: Slapd) -> None:
    world = make(create=True)
    ldap.add_person("dtouleaves", SECRET)
    token = login(world, "dtouleaves").json()["token"]
    world.ask("POST", "/api/v1/users/dtouleaves/disable", json={})
    assert login(world, "dtouleaves").status_code == 401
    world.ask("POST", "/api/v1/users/dtouleaves/enable")
    token = login(world, "dtouleaves").json()["token"]
    assert isinstance(world.services.outside, Outside)
    assert asyncio.run(world.services.outside.sign_out_gone()) == []
    ldap.remove_person("dtouleaves")
    assert login(world, "dtouleaves").status_code == 401
    assert world.ask("GET", "/api/v1/users/dtouleaves", token=token).status_code == 200
    assert asyncio.run(world.services.outside.sign_out_gone()) == ["dtouleaves"]
    assert world.ask("GET", "/api/v1/users/dtouleaves", token=token).status_code == 401


def test_a_token_alone_does_not_outlive_its_owner_there(make: Make, ldap: Slapd) -> None:
    world = make(create=True)
    ldap.add_person("dtoutoken", SECRET)
    session = login(world, "dtoutoken").json()["token"]
    sent = {"label": "script", "scopes": ["read"], "days": 30}
    made = world.ask("POST", "/api/v1/users/dtoutoken/tokens", json=sent, token=session)
    assert made.status_code == 201, made.text
    secret = made.json()["secret"]
    assert world.ask("POST", "/api/v1/auth/logout", token=session).status_code == 204
    ldap.remove_person("dtoutoken")
    assert world.ask("GET", "/api/v1/users/dtoutoken", token=secret).status_code == 200
    assert isinstance(world.services.outside, Outside)
    assert asyncio.run(world.services.outside.sign_out_gone()) == ["dtoutoken"]
    assert world.ask("GET", "/api/v1/users/dtoutoken", token=secret).status_code == 401


def test_a_directory_that_knows_nobody_any_more_signs_nobody_out(make: Make, ldap: Slapd) -> None:
    world = make(create=True)
    for n in range(4):
        ldap.add_person(f"dtoumany{n}", SECRET)
        assert login(world, f"dtoumany{n}").status_code == 200
        ldap.remove_person(f"dtoumany{n}")
    assert isinstance(world.services.outside, Outside)
    assert asyncio.run(world.services.outside.sign_out_gone()) == []


def test_a_second_factor_is_asked_here_after_the_directorys_password(make: Make) -> None:
    world = make(create=True)
    session = login(world, "dtoucarol").json()["token"]
    begun = world.ask("POST", "/api/v1/account/totp", token=session)
    assert begun.status_code in (200, 201), begun.text
    code = pyotp.TOTP(begun.json()["secret"]).now()
    activated = world.ask("PUT", "/api/v1/account/totp", json={"code": code}, token=session)
    assert activated.status_code in (200, 201), activated.text
    asked = login(world, "dtoucarol")
    assert asked.status_code == 401 and asked.json()["code"] == "second-factor-needed", asked.text
    assert login(world, "dtoucarol", "wrong", address="192.0.2.8").json()["code"] == "unauthenticated"


def test_rights_that_cannot_be_taken_are_no_way_in(make: Make) -> None:
    """A role that cannot be given or taken refuses the sign-in; it does not stay because something is in the way."""
    world = make(create=True, domains={"staff": "dtouphysics"})
    refused = login(world, "dtouada")
    assert refused.status_code == 401 and "none can be made" in refused.text, "there is no such domain"
    assert world.ask("POST", "/api/v1/domains", json={"name": "dtouphysics"}).status_code == 201
    assert login(world, "dtouada").status_code == 200
    assert user(world, "dtouada")["domain"] == "dtouphysics"
    world.ask("PATCH", "/api/v1/users/dtouada", json={"domain": "default"})
    world.ask("DELETE", "/api/v1/domains/dtouphysics")
    assert login(world, "dtouada").status_code == 503


def test_local_users_do_without_a_directory_that_is_down(make: Make, ldap: Slapd) -> None:
    world = make(create=True, timeout_s=1.0)
    create(world, "dtoulocal")
    assert login(world, "dtouada").status_code == 200
    ldap.stop()
    try:
        assert login(world, "dtoulocal", "their own good phrase").status_code == 200
        answers = [login(world, name, "wrong") for name in ("dtouada", "dtoulocal", "nobody")]
        assert {answer.status_code for answer in answers} == {503}, "nobody learns who is whose"
        assert "directory does not answer" in answers[0].text
        assert len({re.sub(r'"(instance|request_id)":"[^"]*"', "", a.text) for a in answers}) == 1
    finally:
        ldap.start()
    assert login(world, "dtouada").status_code == 200


def test_a_directory_that_is_down_lets_nobody_guess(make: Make, ldap: Slapd) -> None:
    """A password that is kept here was compared with it, so it counts; for all names alike."""
    world = make(timeout_s=1.0)
    create(world, "dtoulocal")
    ldap.stop()
    try:
        for name in ("dtoulocal", "nobody"):
            answers = [login(world, name, f"guess {n}", address="198.51.100.9").status_code for n in range(7)]
            assert answers == [503] * 5 + [429] * 2 or 429 in answers[5:], answers
    finally:
        ldap.start()


@pytest.mark.parametrize(
    "names",
    [["dtouada", "DTOUADA", "DtouAda", "dtouada ", " dtouada", "ｄｔｏｕａｄａ", "dtou\u00adada", "dtouAda\u0301"]],
)
def test_one_name_written_in_many_ways_is_slowed_down_as_one(make: Make, names: list[str]) -> None:
    world = make(create=True)
    answers = [login(world, name, f"guess {n}").status_code for n, name in enumerate(names)]
    assert answers[:5] == [401] * 5 and answers[5] == 429, answers


def test_their_password_is_changed_there_and_proved_there(make: Make) -> None:
    world = make(create=True)
    token = login(world, "dtoucarol").json()["token"]
    sent = {"current": SECRET, "password": "something quite new here"}
    told = world.ask("PUT", "/api/v1/account/password", json=sent, token=token)
    assert told.status_code == 409 and "directory" in told.text
    for password, status in (("wrong", 422), (SECRET, 200)):
        proved = world.ask("POST", "/api/v1/account/proof", json={"password": password}, token=token)
        assert proved.status_code == status, proved.text


def test_the_second_server_is_asked_when_the_first_is_away(make: Make, ldap: Slapd) -> None:
    down = f"ldaps://127.0.0.1:{free_port()}"
    world = make(create=True, urls=(down, f"ldap://localhost:{ldap.port}"))
    assert login(world, "dtouada").status_code == 200


@pytest.mark.parametrize(
    "more",
    [
        {"ca_file": ""}, {"urls": ("ldaps://127.0.0.2:{tls_port}",)}, {"urls": ("ldaps://127.0.0.1:{port}",)},
        {"bind_dn": f"cn=nobody,{slapd.SUFFIX}"}, {"bind_password_file": "/dev/null"},
    ],
)  # fmt: skip
def test_a_directory_that_is_not_proved_gets_no_password(ldap: Slapd, more: dict[str, Any]) -> None:
    if "urls" in more:
        more = {"urls": tuple(url.format(port=ldap.port, tls_port=ldap.tls_port) for url in more["urls"])}
    asked = Directory(settings(ldap, timeout_s=2.0, **more))
    with pytest.raises(Unavailable):
        asyncio.run(asked.prove("dtouada", SECRET))
    asyncio.run(asked.close())


def test_a_certificate_of_another_name_is_refused_with_starttls_too(ldap: Slapd, tmp_path: Path) -> None:
    with Slapd(tmp_path / "other", names=("directory.example.org",)) as other:
        other.add_person("dtouada", SECRET)
        for url in (f"ldap://127.0.0.1:{other.port}", f"ldaps://127.0.0.1:{other.tls_port}"):
            asked = Directory(settings(other, urls=(url,)))
            with pytest.raises(Unavailable):
                asyncio.run(asked.prove("dtouada", SECRET))
            asyncio.run(asked.close())


def test_binding_by_template_needs_nobody_who_searches(ldap: Slapd) -> None:
    asked = Directory(settings(ldap, bind_dn="", bind_password_file="", bind_template=f"uid={{username}},{PEOPLE}"))

    async def tries() -> None:
        person = await asked.prove("dtouada", SECRET)
        assert person is not None and {"staff", "heads"} <= person.groups
        assert await asked.prove("dtouada", "wrong") is None
        assert await asked.prove(f"dtouada,{PEOPLE}", SECRET) is None
        assert await asked.prove("dtouada", "") is None

    asyncio.run(tries())
    asyncio.run(asked.close())


def test_a_person_of_many_names_is_nobody(ldap: Slapd) -> None:
    asked = Directory(settings(ldap, user_filter="(|(uid={username})(objectClass=inetOrgPerson))"))
    assert asyncio.run(asked.prove("dtouada", SECRET)) is None
    asyncio.run(asked.close())


def test_the_event_loop_goes_on_while_a_directory_keeps_silent(ldap: Slapd) -> None:
    """A server that takes connections and says nothing: the longest wait is the setting's, and nothing else waits."""

    async def tries() -> float:
        writers = []
        silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        asked = Directory(settings(ldap, urls=(f"ldaps://127.0.0.1:{port}",), timeout_s=0.5))
        longest, last, job = 0.0, time.monotonic(), asyncio.create_task(asked.prove("dtouada", SECRET))
        while not job.done():
            await asyncio.sleep(0.005)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        with pytest.raises(Unavailable):
            job.result()
        for writer in writers:
            writer.transport.abort()
        silent.close()
        await asked.close()
        return longest

    assert asyncio.run(tries()) < 0.4


def test_names_that_are_there_and_not_there_take_as_long(ldap: Slapd) -> None:
    """Medians, interleaved: what is left is the directory's own hash (docs/how-to/ldap.md)."""
    asked = Directory(settings(ldap))

    async def once(name: str, *, may: bool = True) -> float:
        began = time.perf_counter()
        assert await asked.prove(name, "wrong", may=may) is None
        return time.perf_counter() - began

    async def measure() -> dict[str, float]:
        taken: dict[str, list[float]] = {"there": [], "not": [], "local": []}
        for _ in range(40):
            taken["there"].append(await once("dtouada"))
            taken["not"].append(await once("nobody"))
            taken["local"].append(await once("dtouada", may=False))
        return {name: statistics.median(times) for name, times in taken.items()}

    found = asyncio.run(measure())
    asyncio.run(asked.close())
    print(json.dumps({name: round(seconds * 1000, 2) for name, seconds in found.items()}))
    assert max(found.values()) < min(found.values()) + 0.01


# -- the whole platform


@pytest.fixture(scope="module")
def stack(ldap: Slapd) -> Iterator[Stack]:
    if reason := cannot_run():
        pytest.skip(reason)
    running = Stack(uid_min=59_700, uid_max=59_799, cgroup="dtout")
    for name, source in (("ca.crt", ldap.ca_file), ("reader", ldap.password_file)):
        shutil.copyfile(source, running.prefix / name)  # pytest's own folder is root's alone
    known = settings(
        ldap, ca_file=f"{running.prefix}/ca.crt", bind_password_file=f"{running.prefix}/reader", create=True,
        host_password=True,
    )  # fmt: skip
    running._settings = f"sign_in: {json.dumps({'ldap': msgspec.to_builtins(known)})}\n"
    with running:
        yield running


def test_ssh_takes_the_password_that_was_proved(stack: Stack, ldap: Slapd) -> None:
    """By `su`, which asks PAM as sshd does; a new password there is the host's after the next sign-in."""
    ldap.add_person("dtoussh", SECRET)
    assert stack.token("dtoussh", SECRET)
    assert 59_700 <= pwd.getpwnam("dtoussh").pw_uid <= 59_799
    assert signs_in("dtoussh", SECRET)
    assert not signs_in("dtoussh", "wrong")
    ldap.set_password("dtoussh", "another of the directory's")
    assert (
        stack.http(
            "POST", LOGIN, {"username": "dtoussh", "password": SECRET}, headers={"X-Forwarded-For": "192.0.2.7"}
        )[0]
        == 401
    )
    assert stack.token("dtoussh", "another of the directory's")
    assert signs_in("dtoussh", "another of the directory's") and not signs_in("dtoussh", SECRET)


def test_doctor_asks_the_directory(stack: Stack, ldap: Slapd) -> None:
    here = Installation(Local(), InstallOptions(prefix=str(stack.prefix)))
    assert [(check.name, check.result) for check in doctor._outside(here) if check.name == "directory"] == [
        ("directory", "ok")
    ]
    ldap.stop()
    try:
        (found,) = [check for check in doctor._outside(here) if check.name == "directory"]
        assert found.result == "fail" and "does not answer" in found.detail
    finally:
        ldap.start()


def test_the_password_is_in_no_log_and_no_audit(stack: Stack) -> None:
    everything = stack.log("server") + stack.log("agent") + stack.cli("audit", "export", "--format", "json").stdout
    assert SECRET not in everything and "another of the directory's" not in everything
    assert slapd.READER_PASSWORD not in everything and "dtoussh" in everything
