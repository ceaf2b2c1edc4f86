"""Codes, PKCE and tokens on a real database: what is taken, what is refused, what ends with what."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection

from diycloud.auth import sessions
from diycloud.auth.oidc import clients, consents, grants
from diycloud.auth.oidc.clients import Client
from diycloud.auth.oidc.grants import Issued, Refused, Rules, verifies
from diycloud.users import repository
from diycloud.users.models import Allocation

NOW = 1_000_000
RULES = Rules(now=NOW, session_idle_s=7_200, access_s=600, refresh_s=86_400)
BACK = "https://app.test/back"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


@pytest.fixture
def connection(connection: Connection) -> Connection:
    for name in ("ada", "bob"):
        repository.add(connection, {"username": name, "password_hash": "x", "status": "active"}, Allocation())
    usual = {"title": "App", "redirect_uris": (BACK,), "scopes": ("openid", "offline_access")}
    for name in ("app", "other"):
        clients.add(connection, name, usual, "secret")
    sessions.begin(connection, 1, now=NOW, max_s=86_400, kind="browser", address="", user_agent="")
    return connection


def client(connection: Connection, name: str = "app") -> Client:
    found = clients.by_name(connection, name)
    assert found is not None
    return found


def begin(connection: Connection, *scopes: str, challenge: str = CHALLENGE, address: str = "192.0.2.7") -> str:
    return grants.begin(
        connection, client_row=client(connection).id, user_id=1, session_id=1, redirect_uri=BACK, challenge=challenge,
        nonce="", scopes=scopes or ("openid",), methods="pwd", address=address, signed_in_at=NOW, now=NOW,
    )  # fmt: skip


def redeem(
    connection: Connection, code: str, *, by: str = "app", rules: Rules = RULES, verifier: str | None = VERIFIER
) -> Issued | Refused:
    done = grants.redeem(
        connection, code, client=client(connection, by), redirect_uri=BACK, verifier=verifier, rules=rules
    )
    return done if isinstance(done, Issued) else done[0]


def refresh(connection: Connection, token: str | None, rules: Rules = RULES) -> Issued | Refused:
    done = grants.refresh(connection, token or "", client=client(connection), scopes=None, rules=rules)
    return done if isinstance(done, Issued) else done[0]


def issued(connection: Connection, *scopes: str) -> Issued:
    done = redeem(connection, begin(connection, *scopes))
    assert isinstance(done, Issued)
    return done


def count(connection: Connection, table: str) -> int:
    return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


# -- PKCE


def test_the_example_of_rfc_7636() -> None:
    assert verifies(CHALLENGE, VERIFIER)


@pytest.mark.parametrize(
    ("challenge", "verifier"),
    [(CHALLENGE, None), ("", VERIFIER), (CHALLENGE, CHALLENGE), (CHALLENGE, ""), (CHALLENGE, VERIFIER[:-1]),
     (VERIFIER, VERIFIER), (CHALLENGE, VERIFIER + "\n"), (CHALLENGE, "é" * 43)],
)  # fmt: skip
def test_what_is_no_verifier(challenge: str, verifier: str | None) -> None:
    assert not verifies(challenge, verifier)


@given(st.text(alphabet="abcXYZ019-._~", min_size=43, max_size=128), st.text(max_size=200))
def test_only_the_verifier_itself_verifies(verifier: str, other: str) -> None:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    assert verifies(challenge, verifier)
    assert verifies(challenge, other) == (other == verifier)


# -- codes


@pytest.mark.parametrize("name", ["", "\0", "app\0", "App", "app ", "é", "x" * 9000, "app'--", "\ud800"])
def test_no_application_of_such_a_name(connection: Connection, name: str) -> None:
    assert clients.by_name(connection, name) is None


def test_a_code_once(connection: Connection) -> None:
    code = begin(connection)
    assert len(code) >= 43 and code not in str(connection.exec_driver_sql("SELECT * FROM oidc_grants").all())
    first = redeem(connection, code)
    assert isinstance(first, Issued) and first.refresh is None and first.grant.username == "ada"
    assert redeem(connection, code) is Refused.REUSED
    assert (count(connection, "oidc_grants"), count(connection, "oidc_tokens")) == (0, 0)
    assert redeem(connection, code) is Refused.UNKNOWN


def test_wrong_tries_spend_it(connection: Connection) -> None:
    late = RULES._replace(now=NOW + grants.CODE_S)
    for wrong, why in (
        ({"verifier": None}, Refused.MISMATCH),
        ({"verifier": "x" * 43}, Refused.MISMATCH),
        ({"by": "other"}, Refused.FOREIGN),
        ({"rules": late}, Refused.EXPIRED),
    ):
        code = begin(connection)
        assert redeem(connection, code, **wrong) is why
        assert redeem(connection, code) is Refused.UNKNOWN
    last = RULES._replace(now=NOW + grants.CODE_S - 1)
    assert isinstance(redeem(connection, begin(connection), rules=last), Issued)


# -- refresh tokens


def test_each_refresh_token_once_and_an_older_one_ends_all(connection: Connection) -> None:
    first = issued(connection, "openid", "offline_access")
    second = refresh(connection, first.refresh)
    assert isinstance(second, Issued) and second.refresh and first.refresh
    assert second.refresh.partition(".")[0] == first.refresh.partition(".")[0] and second.refresh != first.refresh
    assert count(connection, "oidc_tokens") == 3
    guessed = f"{second.refresh.partition('.')[0]}.{'x' * 43}"
    assert refresh(connection, guessed) is Refused.REUSED, "whoever knows the first part has had the whole"
    assert refresh(connection, second.refresh) is Refused.UNKNOWN
    assert count(connection, "oidc_tokens") == 0


@pytest.mark.parametrize("token", ["", ".", "x", "x.y", "\0", "é.é", "x" * 9000])
def test_what_is_no_refresh_token(connection: Connection, token: str) -> None:
    issued(connection, "openid", "offline_access")
    assert refresh(connection, token) is Refused.UNKNOWN
    assert count(connection, "oidc_grants") == 1


def test_an_unused_one_ends_and_using_it_lengthens_it(connection: Connection) -> None:
    token = issued(connection, "openid", "offline_access").refresh
    done = refresh(connection, token, RULES._replace(now=NOW + 86_399))
    assert isinstance(done, Issued)
    assert isinstance(refresh(connection, done.refresh, RULES._replace(now=NOW + 86_399 + 86_399)), Issued)
    token = issued(connection, "openid", "offline_access").refresh
    assert refresh(connection, token, RULES._replace(now=NOW + 86_400)) is Refused.EXPIRED


# -- what a grant stands on


@pytest.mark.parametrize("change", [{"status": "inactive"}, {"status": "deleted"}, {"must_change_password": 1},
                                    {"allowed_client_ip": "10.0.0.0/8"}, {"allowed_client_ip": "nonsense"}])  # fmt: skip
def test_a_user_who_may_no_more(connection: Connection, change: dict[str, object]) -> None:
    done = issued(connection, "openid", "offline_access")
    assert grants.find_valid(connection, done.access, "access", RULES)
    repository.change(connection, 1, change)
    assert grants.find_valid(connection, done.access, "access", RULES) is None
    assert grants.find_valid(connection, done.refresh or "", "refresh", RULES) is None
    assert refresh(connection, done.refresh) is Refused.ENDED


def test_networks_hold_the_address_they_came_from(connection: Connection) -> None:
    done = issued(connection)
    repository.change(connection, 1, {"allowed_client_ip": "192.0.2.0/24"})
    assert grants.find_valid(connection, done.access, "access", RULES)


def test_offline_access_alone_outlives_the_session(connection: Connection) -> None:
    online, offline = issued(connection), issued(connection, "openid", "offline_access")
    sessions.end(connection, 1)
    assert grants.find_valid(connection, online.access, "access", RULES) is None
    assert grants.find_valid(connection, offline.access, "access", RULES)
    assert grants.forget(connection, NOW) == 1


def test_the_session_may_also_expire_or_idle_out(connection: Connection) -> None:
    done = issued(connection)
    for at, holds in ((NOW + 599, True), (NOW + 600, False)):
        assert bool(grants.find_valid(connection, done.access, "access", RULES._replace(now=at))) is holds
    idle = RULES._replace(now=NOW + 100, session_idle_s=100)
    assert grants.find_valid(connection, done.access, "access", idle) is None


# -- bounds, and cleaning up


def test_nothing_grows_without_end(connection: Connection) -> None:
    codes = [begin(connection) for _ in range(grants.MAX_GRANTS + 5)]
    assert count(connection, "oidc_grants") == grants.MAX_GRANTS
    assert redeem(connection, codes[0]) is Refused.UNKNOWN and isinstance(redeem(connection, codes[-1]), Issued)
    token = issued(connection, "openid", "offline_access").refresh
    for _ in range(grants.MAX_ACCESS + 5):
        done = refresh(connection, token)
        assert isinstance(done, Issued)
        token = done.refresh
    assert count(connection, "oidc_tokens") <= grants.MAX_ACCESS + 2


def test_what_is_over_is_forgotten(connection: Connection) -> None:
    begin(connection)
    issued(connection)
    kept = issued(connection, "openid", "offline_access")
    assert grants.forget(connection, NOW + 59) == 0
    assert grants.forget(connection, NOW + 600) == 2
    assert isinstance(refresh(connection, kept.refresh, RULES._replace(now=NOW + 600)), Issued)
    assert grants.forget(connection, NOW + 600 + 86_400) == 1


def test_ending_is_for_one_user_and_application(connection: Connection) -> None:
    mine = issued(connection)
    assert grants.end_of_user(connection, 2) == 0
    assert grants.end_of_user(connection, 1, client(connection, "other").id) == 0
    assert grants.find_valid(connection, mine.access, "access", RULES)
    assert grants.end_of_user(connection, 1, client(connection).id) == 1
    assert count(connection, "oidc_tokens") == 0


def test_consents_add_up_and_are_taken_back(connection: Connection) -> None:
    row = client(connection).id
    consents.give(connection, 1, row, ("openid",))
    consents.give(connection, 1, row, ("email", "openid"))
    assert consents.read(connection, 1, row) == {"openid", "email"} and not consents.read(connection, 2, row)
    (app,) = consents.of_user(connection, 1)
    assert (app.name, app.scopes, app.sign_ins) == ("app", ("openid", "email"), 0) and app.allowed_at
    issued(connection)
    assert consents.of_user(connection, 1)[0].sign_ins == 1
    consents.withdraw(connection, 1, row)
    assert not consents.read(connection, 1, row)


# -- addresses


@pytest.mark.parametrize("uri", ["https://app.test/back", "https://app.test", "http://127.0.0.1/x", "http://[::1]:80/x",
                                 "http://localhost:3000/x", "org.example.app:/back", "https://app.test/?a=b"])  # fmt: skip
def test_addresses_that_may_be_registered(uri: str) -> None:
    assert clients.uri_problem(uri) is None


@pytest.mark.parametrize("uri", ["http://app.test/", "https://", "https://a.test/#", "https://u@a.test/", "https://*.a.test/",
                                 "javascript:x", "app:/x", "https://a.test:99999/", "https://[/", "//a.test/", "x"])  # fmt: skip
def test_addresses_that_may_not(uri: str) -> None:
    assert clients.uri_problem(uri)


@given(st.text(max_size=60))
def test_any_text_is_told_apart(text: str) -> None:
    problem = clients.uri_problem(text)
    assert problem is None or problem.startswith(("is ", "may ", "has ", "must "))
