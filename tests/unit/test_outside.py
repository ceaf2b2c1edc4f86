"""Signing in through others: what is pure in it (escaping, names, mapping, settings), and who may be linked to whom."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import Name
from hypothesis import given
from hypothesis import strategies as st
from ldap3.operation.search import parse_filter
from sqlalchemy import Connection, insert

from diycloud import config
from diycloud.actions.fields import Username
from diycloud.actions.roles import Role
from diycloud.auth.outside import identities
from diycloud.auth.outside.ldap import bind_name, escape_dn, escape_filter, first_part
from diycloud.auth.outside.linking import candidate
from diycloud.auth.outside.mapping import RANK, mapped
from diycloud.auth.outside.person import Person, exact_name, may_come, username_here
from diycloud.config import Paths, Settings
from diycloud.config_sign_in import LdapSettings, Linking, ProviderSettings, SignInSettings
from diycloud.core.services import server_service
from diycloud.db.engine import Database
from diycloud.db.tables import users
from diycloud.distro.systemd import render_unit
from diycloud.errors import Conflict, InvalidInput
from diycloud.users.models import Status

TYPED = st.text(max_size=64)
NASTY = st.text(alphabet=st.sampled_from(list('*()\\\0,+"<>;=#/ abä\n\x7f')), max_size=30)


@given(TYPED | NASTY)
def test_nothing_that_is_typed_changes_a_filter(typed: str) -> None:
    """RFC 4515: one equality match, of exactly what was typed; ldap3's own reader is the judge."""
    found = parse_filter(f"(&(objectClass=person)(uid={escape_filter(typed)}))", None, False, False, None, False)
    both = found.elements[0].elements
    assert [one.tag for one in both] == [both[0].tag] * 2 and len(both) == 2
    assertion = both[1].assertion
    assert assertion["attr"] == "uid"
    value = re.sub(rb"\\([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), assertion["value"])
    assert value == typed.encode("utf-8", "replace")
    assert not set("*()\0") & set(escape_filter(typed))


@given(st.binary(max_size=40))
def test_bytes_too(raw: bytes) -> None:
    back = re.sub(rb"\\([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), escape_filter(raw).encode())
    assert back == raw


@given(st.text(alphabet=st.sampled_from(list(',+"<>;=#\\ abcä/')), min_size=1, max_size=20))
def test_nothing_that_is_typed_changes_a_distinguished_name(typed: str) -> None:
    """RFC 4514; the reader of cryptography is the judge, and ours takes it back."""
    whole = bind_name("CN={username},O=Example", typed)
    parts = {part.rfc4514_attribute_name: part.value for part in Name.from_rfc4514_string(whole)}
    assert parts == {"CN": typed, "O": "Example"}
    assert first_part(whole) == typed


@pytest.mark.parametrize(
    ("typed", "escaped"),
    [
        ("ada", "ada"), ("a,b", r"a\,b"), (" a ", r"\ a\ "), ("#a", r"\#a"), ("a\0b", r"a\00b"), ("\\", r"\\"), (" ", r"\ "),
        ("a=b", r"a\=b"), ("Ä", "Ä"),
    ],
)  # fmt: skip
def test_distinguished_names_by_example(typed: str, escaped: str) -> None:
    assert escape_dn(typed) == escaped


def test_what_is_no_distinguished_name_is_left_alone() -> None:
    assert bind_name("{username}@example.org", "ada") == "ada@example.org"
    assert first_part(r"cn=Staff\, all,ou=groups,dc=example") == "Staff, all" and first_part("nothing") == ""


@given(TYPED)
def test_names_made_of_names_can_be_names(name: str) -> None:
    pattern = re.compile(Username.__metadata__[0].pattern)  # type: ignore[attr-defined]
    made = username_here(name)
    assert made == "" or pattern.match(made)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("Ada", "ada"), ("ada@example.org", "ada"), ("Ada Lovelace", "ada-lovelace"), ("ada.l", "ada-l"), ("1st", ""),
        ("", ""), ("-", ""), ("ä", ""), ("a" * 33, ""), ("../root", "root"), ("ada\n", "ada"), ("@x", ""),
    ],
)  # fmt: skip
def test_names_by_example(name: str, made: str) -> None:
    assert username_here(name) == made


@pytest.mark.parametrize("name", ["ada@evil.example", "ada l", "\u212aate", "a.da", "", " ada", "ad\u0430"])
def test_a_name_that_is_not_the_very_same_links_nobody(name: str) -> None:
    """Of a tenant that hands out its own names, or in letters that only look alike."""
    assert exact_name(name) == ""
    assert exact_name("Ada") == "ada"


GROUPS = st.sets(st.sampled_from("abcdef"))
OUTSIDE = ("Staff", "cn=heads,ou=groups", "students", "others")
RULES = st.builds(
    lambda groups, roles, domains, allow: Linking(
        groups={name: tuple(sorted(names)) for name, names in groups.items()}, roles=roles, domains=domains,
        allow_admin=allow,
    ),
    st.dictionaries(st.sampled_from(OUTSIDE), GROUPS),
    st.dictionaries(st.sampled_from(OUTSIDE), st.sampled_from(["admin", "domain-admin", "monitor", "user"])),
    st.dictionaries(st.sampled_from(OUTSIDE), st.sampled_from(["d1", "d2"])),
    st.booleans(),
)  # fmt: skip
PEOPLE = st.builds(
    lambda groups: Person("ldap", "s", groups=frozenset(groups)),
    st.sets(st.sampled_from([*OUTSIDE, "STAFF", "CN=Heads, OU=groups", "unknown"])),
)


SPELT = {"Staff": {"Staff", "STAFF"}, "cn=heads,ou=groups": {"cn=heads,ou=groups", "CN=Heads, OU=groups"}}


def belongs(person: Person, group: str) -> bool:
    """Written by hand: the ways in which a directory spells the groups above."""
    return bool(SPELT.get(group, {group}) & person.groups)


@given(PEOPLE, RULES, st.sampled_from(Role), GROUPS)
def test_only_what_the_rules_name_is_changed(person: Person, rules: Linking, role: Role, now: set[str]) -> None:
    wanted = mapped(person, rules, role=role, groups=now)
    after = now if wanted.groups is None else wanted.groups
    managed = {name for names in rules.groups.values() for name in names}
    assert after - managed == now - managed
    due = {name for outside, names in rules.groups.items() if belongs(person, outside) for name in names}
    assert after & managed == due
    role_after = wanted.role or role
    again = mapped(person, rules, role=role_after, groups=after)
    assert again.groups is None and again.role is None, "a second sign-in changes nothing"


@given(PEOPLE, RULES, st.sampled_from(Role))
def test_roles_follow_the_rules_and_administrators_only_by_name(person: Person, rules: Linking, role: Role) -> None:
    wanted = mapped(person, rules, role=role, groups=()).role
    after = wanted or role
    if not rules.roles:
        assert wanted is None
    if not rules.allow_admin:
        assert (after is Role.ADMIN) is (role is Role.ADMIN)
    elif rules.roles:
        given_roles = {Role(name) for outside, name in rules.roles.items() if belongs(person, outside)}
        assert after is min(given_roles or {Role.USER}, key=RANK.index)


@given(PEOPLE)
def test_who_may_come(person: Person) -> None:
    assert may_come(person, Linking())
    assert may_come(person, Linking(only=("staff",))) is bool({"Staff", "STAFF"} & person.groups)
    assert not may_come(person._replace(provider="uni"), Linking(only=("staff",))), "providers' names are exact"


# -- settings


LDAP = "sign_in:\n  ldap:\n    user_base: dc=x\n"


def parse(text: str) -> Settings:
    return config.parse(text, Path("config.yaml"), {})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("urls: [ldap://directory.example.org]\n    starttls: false", "not encrypted"),
        ("urls: [ldaps://ok, ldap://192.0.2.1]\n    starttls: false", "ldap://192.0.2.1"),
        ("urls: [http://x]", "like"), ("urls: []", "1 at least"), ("urls: [ldap://x:99999]", "ort"),
        ("urls: ['ldaps://user@x']", "like"), ("urls: [ldaps://x]\n    user_filter: (uid=ada)", "username"),
        ("urls: [ldaps://x]\n    link: email", "trust_email"), ("urls: [ldaps://x]\n    bind_dn: cn=a", "bind_password_file"),
        ("urls: [ldaps://x]\n    roles: {a: admin}", "allow_admin"), ("urls: [ldaps://x]\n    roles: {a: root}", "one of admin"),
        ("urls: [ldaps://x]\n    bind_template: 'u={username},x'\n    check_minutes: 5", "check_minutes"),
        ("urls: [ldaps://x]\n    password: secret", "password"), ("urls: [ldaps://x]\n    groups: {a: [Staff]}", "a name of"),
    ],
)  # fmt: skip
def test_a_directory_that_cannot_be_is_refused(more: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=r"config.yaml, line \d: sign_in") as caught:
        parse(f"{LDAP}    {more}\n")
    assert said in str(caught.value)


def test_unencrypted_only_to_this_machine_or_on_somebodys_word() -> None:
    for url in ("ldap://127.0.0.1:389", "ldap://[::1]", "ldap://localhost"):
        found = parse(f"{LDAP}    urls: ['{url}']\n    starttls: false\n").sign_in.ldap
        assert found is not None and found.urls == (url,)
    assert parse(f"{LDAP}    urls: [ldap://192.0.2.1]\n    starttls: false\n    insecure: true\n").sign_in.is_used
    assert parse(f"{LDAP}    urls: [ldap://192.0.2.1]\n").sign_in.is_used, "with StartTLS"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("{name: uni, issuer: http://example.org, client_id: x}", "not encrypted"),
        ("{name: ldap, issuer: https://example.org, client_id: x}", "directory"),
        ("{name: Uni, issuer: https://example.org, client_id: x}", "name"),
        ("{name: uni, issuer: 'https://example.org/?a', client_id: x}", "issuer"),
        ("{name: uni, issuer: https://example.org, client_id: x, scopes: [email]}", "openid"),
        ("{name: uni, issuer: https://example.org, client_id: x, client_secret: y}", "client_secret"),
        ("{name: a, issuer: https://x.org, client_id: x}, {name: a, issuer: https://y.org, client_id: x}", "same name"),
    ],
)  # fmt: skip
def test_a_provider_that_cannot_be_is_refused(more: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(f"sign_in:\n  providers: [{more}]\n")
    assert said in str(caught.value)


def test_the_server_has_the_network_only_with_somebody_to_ask() -> None:
    """rules.md 15: `systemd-analyze security` of the unit is measured in the virtual machine."""
    provider = ProviderSettings(name="uni", issuer="https://example.org", client_id="x")
    directory = LdapSettings(urls=("ldaps://x",), user_base="dc=x")
    for used in (SignInSettings(ldap=directory), SignInSettings(providers=(provider,))):
        unit = render_unit(server_service(Paths(), Settings(sign_in=used), "www-data"))
        assert "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n" in unit and "PrivateNetwork" not in unit
        assert "CapabilityBoundingSet=\n" in unit and "SystemCallFilter=~@privileged @resources" in unit
    assert "PrivateNetwork=yes" in render_unit(server_service(Paths(), Settings(), "www-data"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="without systemd-analyze")
def test_with_the_network_the_server_is_still_confined(tmp_path: Path) -> None:
    """rules.md 15: at most 1.5."""
    directory = LdapSettings(urls=("ldaps://x",), user_base="dc=x")
    unit = tmp_path / "diycloud-server.service"
    unit.write_text(render_unit(server_service(Paths(), Settings(sign_in=SignInSettings(ldap=directory)), "www-data")))
    words = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)]
    told = subprocess.run(words, capture_output=True, text=True, check=False)
    if "Overall exposure" not in told.stdout:
        pytest.skip(f"systemd-analyze does not tell: {told.stderr[:200]}")
    assert float(told.stdout.rsplit("diycloud-server.service:", 1)[1].split()[0]) <= 1.5


# -- who may be linked


def add(connection: Connection, name: str, **more: Any) -> int:
    values = {"username": name, "password_hash": "x", "email": f"{name}@example.org", "status": "active", **more}
    return int(connection.execute(insert(users).values(values)).inserted_primary_key[0])  # type: ignore[index]


def ask(database: Database, fn: Any) -> Any:
    return asyncio.run(database.write(fn))


def test_who_may_be_linked_without_an_administrators_word(database: Database) -> None:
    """The whole table: role, sudo, status, and whether they are somebody else there already."""
    cases = list(itertools.product(Role, (0, 1), Status, ("", "linked", "named")))

    def store(connection: Connection) -> None:
        for at, (role, sudo, status, known) in enumerate(cases):
            named = {"external_id": f"uni:old-{at}"} if known == "named" else {}
            user_id = add(connection, f"u{at}", role=role, sudo=sudo, status=status, **named)
            if known == "linked":
                identities.link(connection, user_id, "uni", f"old-{at}")

    ask(database, store)
    for at, (role, sudo, status, known) in enumerate(cases):
        may = role is Role.USER and not sudo and status in (Status.ACTIVE, Status.PENDING) and not known
        attacker = Person("uni", "new", f"U{at}", f"U{at}@EXAMPLE.org", True)
        for rule in ("username", "email"):
            found = database.read_now(lambda c, p=attacker, r=rule: candidate(c, p, Linking(link=r)))
            assert (found is not None) is may, (role, sudo, status, known, rule)
        assert database.read_now(lambda c, p=attacker: candidate(c, p, Linking())) is None
        unproved = attacker._replace(email_verified=False)
        assert database.read_now(lambda c, p=unproved: candidate(c, p, Linking(link="email"))) is None


def test_a_link_is_of_one_user_and_one_person(database: Database) -> None:
    one, two = ask(database, lambda c: (add(c, "one"), add(c, "two")))
    assert ask(database, lambda c: identities.link(c, one, "uni", "s-1")) is True
    assert ask(database, lambda c: identities.link(c, one, "uni", "s-1")) is False
    for user_id, subject in ((two, "s-1"), (one, "s-2")):
        with pytest.raises(Conflict):
            ask(database, lambda c, u=user_id, s=subject: identities.link(c, u, "uni", s))
    assert ask(database, lambda c: identities.link(c, two, "other", "s-1")) is True
    assert database.read_now(lambda c: identities.user_of(c, "uni", "s-1")) == one
    assert database.read_now(lambda c: identities.user_of(c, "UNI", "s-1")) is None


def test_an_outside_id_counts_until_there_is_a_link(database: Database) -> None:
    """Set by an import; afterwards the link alone does, or a changed column would be a second key to the account."""
    one = ask(database, lambda c: add(c, "one", external_id="uni:s-1"))
    assert database.read_now(lambda c: identities.user_of(c, "uni", "s-1")) == one
    ask(database, lambda c: identities.link(c, one, "uni", "s-1"))
    ask(database, lambda c: c.exec_driver_sql("UPDATE users SET external_id = 'uni:s-2'") and None)
    assert database.read_now(lambda c: identities.user_of(c, "uni", "s-2")) is None
    assert database.read_now(lambda c: identities.user_of(c, "uni", "s-1")) == one
    assert len(identities.external_id("uni", "x" * 255)) <= 200
