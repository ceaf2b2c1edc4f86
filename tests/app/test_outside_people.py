"""Who somebody is here whom an outside OpenID Connect provider has proved: linked, made, raised; and one's own links."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.app.provider import (
    COOKIE,
    SESSION,
    Browser,
    Make,
    Provider,
    create,
)
from tests.app.restful import ADMIN, PASSWORD, World


@pytest.mark.parametrize("role", ["admin", "domain-admin", "monitor"])
@pytest.mark.parametrize("rule", ["username", "email"])
def test_nobody_becomes_an_administrator_by_a_name_or_address(
    make: Make, provider: Provider, role: str, rule: str
) -> None:
    """The attacker registers at the provider with the victim's name and address."""
    browser = make(link=rule)
    create(browser.world, "dtouboss", role=role, email="boss@example.org")
    provider.claims |= {"preferred_username": "dtouboss", "email": "boss@example.org", "email_verified": True}
    browser.back(provider.sign_in(browser.start()))
    found = browser.world.ask("GET", "/api/v1/users/dtouboss/identities").json()["identities"]
    assert found == [] and SESSION not in browser.cookies


@pytest.mark.parametrize("verified", [None, False, "true", 1])
def test_an_address_that_is_not_confirmed_links_nobody(make: Make, provider: Provider, verified: object) -> None:
    browser = make(link="email", create=False)
    create(browser.world, "dtouvictim", email="victim@example.org")
    provider.claims |= {"email": "victim@example.org", "email_verified": verified}
    assert browser.back(provider.sign_in(browser.start())).headers["location"] == "/sign-in"
    assert "no account here" in browser.refusal()


def test_a_confirmed_address_links_a_plain_user_once(make: Make, provider: Provider) -> None:
    browser = make(link="email", create=False)
    create(browser.world, "dtoucarol", email="Carol@example.org")
    provider.claims |= {"email": "carol@EXAMPLE.org", "email_verified": True}
    assert browser.back(provider.sign_in(browser.start())).headers["location"] == "/groups"
    provider.claims["sub"] = "s-2"  # somebody else has the address now
    other = make()
    assert other.back(provider.sign_in(other.start())).headers["location"] == "/sign-in"


def test_confirmed_elsewhere_is_not_confirmed(make: Make, provider: Provider) -> None:
    """email of the ID token, email_verified of userinfo, about another address."""
    browser = make(link="email", create=False)
    create(browser.world, "dtouvictim", email="victim@example.org")
    provider.claims |= {"email": "victim@example.org", "name": None}
    provider.userinfo = {"sub": "s-1", "email": "evil@example.org", "email_verified": True}
    assert browser.back(provider.sign_in(browser.start())).headers["location"] == "/sign-in"


def test_a_user_who_was_made_has_no_password(make: Make, provider: Provider) -> None:
    browser = make()
    browser.back(provider.sign_in(browser.start()))
    for guess in ("", "PLACEHOLDER", "plain "):
        sent = {"username": "dtouada", "password": guess}
        assert browser.world.ask("POST", "/api/v1/auth/login", json=sent, token="").status_code == 401


def test_who_is_disabled_or_comes_from_elsewhere_stays_out(make: Make, provider: Provider) -> None:
    browser = make()
    browser.back(provider.sign_in(browser.start()))
    world = browser.world
    world.ask("POST", "/api/v1/users/dtouada/disable", json={})
    other = make()
    assert other.back(provider.sign_in(other.start())).headers["location"] == "/sign-in"
    assert "does not let you in" in other.refusal()
    world.ask("POST", "/api/v1/users/dtouada/enable")
    world.ask("PATCH", "/api/v1/users/dtouada", json={"allowed_client_ip": ["10.0.0.0/8"]})
    assert (
        other.back(provider.sign_in(other.start())).headers["location"] == "/sign-in" and SESSION not in other.cookies
    )


def test_groups_of_the_token_and_of_userinfo(make: Make, provider: Provider) -> None:
    browser = make(groups={"students": ("dtougrp",)}, roles={"staff": "monitor"}, only=("students",))
    browser.world.ask("POST", "/api/v1/groups", json={"name": "dtougrp"})
    provider.claims["groups"] = ["students", 7, None]
    assert browser.back(provider.sign_in(browser.start())).headers["location"] == "/groups"
    found = browser.world.ask("GET", "/api/v1/users/dtouada").json()
    assert (found["groups"], found["role"]) == (["dtougrp"], "user")
    provider.claims["groups"] = ["staff"]
    other = make()
    assert other.back(provider.sign_in(other.start())).headers["location"] == "/sign-in", "no student any more"


def raised(make: Make, provider: Provider, **rules: Any) -> tuple[World, Browser]:
    """Have dtouada come as a plain user, and once more after the provider has made her a head."""
    rules = {"roles": {"heads": "domain-admin"}, "domains": {"heads": "physics"}, **rules}
    browser = make(**rules)
    browser.world.ask("POST", "/api/v1/domains", json={"name": "physics", "policy": "default"})
    if not rules.get("create", True):
        create(browser.world, "dtouada")
    assert browser.back(provider.sign_in(browser.start())).headers["location"] == "/groups"
    provider.claims["groups"] = ["heads"]
    again = make()
    again.back(provider.sign_in(again.start()))
    return browser.world, again


def rights(world: World, name: str = "dtouada") -> tuple[str, str]:
    found = world.ask("GET", f"/api/v1/users/{name}").json()
    return found["role"], found["domain"]


def test_who_was_made_by_coming_is_raised_by_their_groups(make: Make, provider: Provider) -> None:
    world, browser = raised(make, provider)
    assert rights(world) == ("domain-admin", "physics") and SESSION in browser.cookies


def test_an_account_with_a_password_of_somebody_elses_is_not_raised(make: Make, provider: Provider) -> None:
    """Whoever made it knows the password that it had then, and waits for the provider to make its owner a head."""
    world, browser = raised(make, provider, link="username", create=False)
    assert rights(world) == ("user", "default") and SESSION in browser.cookies, "let in, as what they were"
    body = {"provider": "uni", "subject": str(provider.claims["sub"])}
    assert world.ask("POST", "/api/v1/users/dtouada/identities", json=body).status_code in (200, 201)
    vouched = make()
    vouched.back(provider.sign_in(vouched.start()))
    assert rights(world) == ("domain-admin", "physics"), "an administrator has said who that is"
    provider.claims["groups"] = []
    less = make()
    less.back(provider.sign_in(less.start()))
    assert rights(world)[0] == "user", "less is always given"


def test_nobody_is_raised_to_administrator_without_the_setting(make: Make) -> None:
    with pytest.raises(ValueError, match="allow_admin"):
        make(roles={"heads": "admin"})


@pytest.mark.parametrize(("told", "asked"), [({"amr": ["pwd", "otp"]}, False), ({"amr": ["pwd"]}, True), ({}, True)])
def test_a_second_factor_here_is_asked_unless_the_provider_is_trusted_with_it(
    make: Make, provider: Provider, told: dict[str, Any], asked: bool
) -> None:
    browser = make(trust_mfa=True)
    browser.back(provider.sign_in(browser.start()))
    add = "INSERT INTO totps (user_id, secret, active) SELECT id, x'00', 1 FROM users WHERE username = 'dtouada'"
    browser.by_hand(add)
    provider.claims |= told
    other = make()
    went = other.back(provider.sign_in(other.start())).headers["location"]
    assert went.startswith("/sign-in/second") is asked and (SESSION in other.cookies) is not asked


# -- one's own links


def local(make: Make, name: str = ADMIN, password: str = PASSWORD, **more: Any) -> Browser:
    browser = make(**more)
    sent = {"username": name, "password": password, "next": "/", "csrf": ""}
    assert browser.ask("POST", "/sign-in", data=sent).status_code == 303
    return browser


def test_an_administrator_links_and_unlinks_their_own(make: Make, provider: Provider) -> None:
    browser = local(make, create=False)
    assert "The University" in browser.ask("GET", "/account/identities").text
    url = browser.start("/account/identities/link", provider="uni", csrf=browser.csrf())
    assert browser.back(provider.sign_in(url)).headers["location"] == "/account/identities"
    other = make()
    assert other.back(provider.sign_in(other.start())).headers["location"] == "/groups"
    assert ADMIN in other.ask("GET", "/").text
    form = {"provider": "uni", "csrf": browser.csrf()}
    assert browser.ask("POST", "/account/identities/unlink", data=form).headers["location"] == "/account/identities"
    last = make()
    assert last.back(provider.sign_in(last.start())).headers["location"] == "/sign-in"


def test_what_is_somebodys_is_nobody_elses(make: Make, provider: Provider) -> None:
    first = make()
    first.back(provider.sign_in(first.start()))  # the provider's s-1 is dtouada from now on
    admin = local(make)
    url = admin.start("/account/identities/link", provider="uni", csrf=admin.csrf())
    assert admin.back(provider.sign_in(url)).headers["location"] == "/account/identities"
    assert admin.world.ask("GET", f"/api/v1/users/{ADMIN}/identities").json()["identities"] == []
    form = {"provider": "uni", "csrf": first.csrf()}
    first.ask("POST", "/account/identities/unlink", data=form)
    assert len(first.world.ask("GET", "/api/v1/users/dtouada/identities").json()["identities"]) == 1, (
        "their only way in"
    )


def test_a_link_begun_by_one_is_not_ended_by_another(make: Make, provider: Provider) -> None:
    """A stranger's answer brought into an administrator's browser links nothing."""
    admin, stranger = local(make, create=False), make()
    answer = provider.sign_in(stranger.start())
    admin.cookies[COOKIE] = stranger.cookies[COOKIE]
    assert admin.back(answer).status_code == 303
    assert admin.world.ask("GET", f"/api/v1/users/{ADMIN}/identities").json()["identities"] == []


def test_a_link_that_one_user_begins_is_not_anothers(make: Make, provider: Provider) -> None:
    """Mallory begins to link her account, proves at the provider who she is, and has an administrator's browser come back."""
    admin = local(make, create=False)
    create(admin.world, "dtoumal")
    mallory = local(make, "dtoumal", "their own good phrase")
    answer = provider.sign_in(mallory.start("/account/identities/link", provider="uni", csrf=mallory.csrf()))
    admin.cookies[COOKIE] = mallory.cookies[COOKIE]
    assert admin.back(answer).headers["location"] == "/account/identities"
    assert admin.world.ask("GET", f"/api/v1/users/{ADMIN}/identities").json()["identities"] == []
    assert "signed in or out meanwhile" in admin.ask("GET", "/account/identities").text


def test_linking_asks_for_a_fresh_proof(make: Make) -> None:
    browser = local(make)
    old = "UPDATE sessions SET proved_at = proved_at - 3600"
    browser.by_hand(old)
    form = {"provider": "uni", "csrf": browser.csrf()}
    for path in ("/account/identities/link", "/account/identities/unlink"):
        done = browser.ask("POST", path, data=form)
        assert done.status_code == 303 and done.headers["location"].startswith("/confirm"), done.headers


def test_proving_anew_must_be_the_same_person_and_now(make: Make, provider: Provider) -> None:
    browser = make()
    browser.back(provider.sign_in(browser.start()))
    url = browser.start(csrf=browser.csrf())
    assert "prompt=login" in url
    provider.claims["auth_time"] = int(time.time()) - 7200
    assert browser.back(provider.sign_in(url)).headers["location"] == "/account/identities"
    provider.claims["auth_time"] = int(time.time())
    before = browser.cookies[SESSION]
    assert browser.back(provider.sign_in(browser.start(csrf=browser.csrf()))).headers["location"] == "/groups"
    assert browser.cookies[SESSION] != before
    provider.claims["sub"] = "s-2"
    url = browser.start(csrf=browser.csrf())
    assert browser.back(provider.sign_in(url)).headers["location"] == "/account/identities"
    assert "dtouada" in browser.ask("GET", "/").text


def test_who_has_no_password_proves_it_there_and_chooses_a_first_one(make: Make, provider: Provider) -> None:
    browser = make()
    browser.back(provider.sign_in(browser.start()))
    page = browser.ask("GET", "/account").text
    assert "Choose a password" in page and 'name="current" value="none"' in page
    browser.by_hand("UPDATE sessions SET proved_at = proved_at - 3600")
    phrase = "a first one of their own"
    form = {"csrf": browser.csrf(), "current": "none", "password": phrase, "again": phrase}
    done = browser.ask("POST", "/account", data=form)
    assert done.headers["location"].startswith("/confirm")
    confirm = browser.ask("GET", "/confirm?next=/account").text
    assert "Sign in with The University" in confirm and 'name="password"' not in confirm
    assert (
        browser.back(provider.sign_in(browser.start(csrf=browser.csrf(), next="/account"))).headers["location"]
        == "/account"
    )
    form["csrf"] = browser.csrf()
    assert browser.ask("POST", "/account", data=form).headers["location"] == "/"
    sent = {"username": "dtouada", "password": phrase}
    assert browser.world.ask("POST", "/api/v1/auth/login", json=sent, token="").status_code == 200
    form |= {"csrf": browser.csrf(), "password": "another of their own", "again": "another of their own"}
    assert "is not your present password" in browser.ask("POST", "/account", data=form).text
