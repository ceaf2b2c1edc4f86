"""The preview's pages of one's own account and of who is signed in."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from diycloud.actions.entry import Entry
from diycloud.actions.roles import Role
from diycloud.auth.factors import State
from diycloud.auth.models import SignedInSession, Token, Wait, moment
from diycloud.auth.outside.actions import Identities, Identity
from diycloud.auth.passkeys import Party
from diycloud.auth.tokens import widen
from diycloud.web.account import TABS, TOKEN_DAYS, Asked
from diycloud.web.signed_in import WORDS

from .frame import form_of, page
from .samples import ADA, KEYS, LONG

NOW = int(time.time())
HOUR, DAY = 3600, 86_400


def token(number: int, label: str, scopes: list[str], **more: Any) -> Token:
    values: dict[str, Any] = {
        "key_id": f"k7m2q5{number:06d}".replace("0", "a").replace("1", "b"), "username": ADA.username, "label": label,
        "scopes": widen(scopes, Role.USER), "created_at": moment(NOW - 9 * DAY), "expires_at": moment(NOW + 80 * DAY),
        "expired": False, "last_used": moment(NOW - 2 * HOUR), "last_address": "192.0.2.17",
    }  # fmt: skip
    return Token(**{**values, **more})


TOKENS = [
    token(1, "backup of the thesis", ["users:read"]),
    token(2, "CI", ["all"], last_used=None, last_address=""),
    token(3, "an old script with a name that is as long as a name may be, 60", ["read"], expired=True),
]


def session(number: int, name: str, device: str, **more: Any) -> SignedInSession:
    values: dict[str, Any] = {
        "id": str(number), "username": name, "kind": "browser", "device": device, "address": "192.0.2.17",
        "methods": ("pwd", "otp"), "created_at": moment(NOW - 5 * HOUR), "last_seen": moment(NOW - 60),
        "ends_at": moment(NOW + 19 * HOUR), "idle_at": moment(NOW + 2 * HOUR), "current": False,
    }  # fmt: skip
    return SignedInSession(**{**values, **more})


MINE = [
    session(41, ADA.username, "Firefox on Linux", current=True),
    session(
        40, ADA.username, "Safari on iPhone", address="2001:db8:1234:5678:9abc:def0:1234:5678", methods=("hwk", "user")
    ),
    session(38, ADA.username, "diycloud", kind="api", methods=("pwd",), last_seen=moment(NOW - 90)),
]
EVERYBODYS = [
    *MINE,
    session(37, LONG.username, "an unknown program", methods=("fed",)),
    session(36, "alan", "Chrome on Windows"),
]
WAITING = [
    Wait("pair", "ada", "203.0.113.9", 12, 118),
    Wait("pair", "", "203.0.113.9", 9, 16),
    Wait("address", "", "2001:db8::/64", 44, 812),
    Wait("account", LONG.username, "", 31, 15),
]


def attempt(number: int, target: str, outcome: str, code: str) -> Entry:
    return Entry(
        id=number, at=moment(NOW - number * 60), actor="(nobody)", on_behalf_of="", domain="", via="portal",
        address="203.0.113.9", request_id="0", action="session.begin", target=target, outcome=outcome, code=code, message="",
        duration_ms=20.0, changes={},
    )  # fmt: skip


ATTEMPTS = [
    attempt(1, "ada", "done", ""),
    attempt(2, "ada", "refused", "unauthenticated"),
    attempt(3, "", "refused", "unauthenticated"),
    attempt(4, LONG.username, "refused", "too-many-requests"),
]


def mine(request: Request, template: str, tab: str, status: int = 200, **context: Any) -> Response:
    return page(request, template, status, actor=ADA, user=ADA, tabs=TABS, tab=tab, **context)


async def password(request: Request) -> Response:
    errors = {}
    if request.method == "POST":
        form = await form_of(request)
        if len(form["password"]) < 12:
            errors["password"] = "at least 12 characters"
        if form["password"] != form["again"]:
            errors["again"] = "the two are not the same"
    about = {
        "forced": "forced" in request.query_params,
        "min_length": 12,
        "errors": errors,
        "tokens": TOKENS,
        "kept_by": "",
    }
    return mine(request, "account_password.html", "password", 422 if errors else 200, **about)


def keys(request: Request) -> Response:
    return mine(request, "account_keys.html", "keys", keys=KEYS, errors={}, message="")


def tokens(request: Request) -> Response:
    return mine(
        request, "account_tokens.html", "tokens", tokens=[] if "empty" in request.query_params else TOKENS, most=50
    )


async def new_token(request: Request) -> Response:
    if request.method == "POST" and (form := await form_of(request)).get("label"):
        made = token(9, form["label"], ["read"])
        secret = f"dct_{made.key_id}_{'x' * 49}"
        return mine(request, "account_token_created.html", "tokens", 201, made=made, secret=secret)
    errors = {"label": "1–60 printable characters, no blank at the ends"} if request.method == "POST" else {}
    return mine(
        request, "account_token_new.html", "tokens", 422 if errors else 200, values={"label": "", "days": "90"},
        chosen=["read"], errors=errors, message="", scopes=widen(["all"], Role.ADMIN), days=TOKEN_DAYS,
    )  # fmt: skip


def made_token(request: Request) -> Response:
    made = TOKENS[0]
    return mine(request, "account_token_created.html", "tokens", made=made, secret=f"dct_{made.key_id}_{'x' * 49}")


def others_tokens(request: Request) -> Response:
    return page(request, "user_tokens.html", username=ADA.username, tokens=TOKENS)


def others_identities(request: Request) -> Response:
    empty, wrong = "empty" in request.query_params, {"subject": "either this or name_there is needed"}
    errors = wrong if "wrong" in request.query_params else {}
    linked = [
        Identity(
            "uni", "https://idp.example.org/people/" + "7f3a" * 12, moment(NOW - 86_400 * 40), moment(NOW - 3_600)
        ),
        Identity("old", "s-1", moment(NOW - 86_400 * 400), None),
    ]
    found = Identities(ADA.username, [] if empty else linked, password=empty)
    return page(
        request, "user_identities.html", 422 if errors else 200, username=ADA.username, found=found,
        labels={"uni": "The University", "ldap": "the faculty"}, free=[("ldap", "the faculty")], ldap="ldap", may_link=True,
        values={}, message="", errors=errors,
    )  # fmt: skip


def once_more(request: Request) -> Response:
    return page(
        request, "again.html", actor=ADA, to="/import", fields=[("csv", "username\r\neve\r\n"), ("update", "true")]
    )


def sessions(request: Request) -> Response:
    return mine(request, "account_sessions.html", "sessions", sessions=MINE)


def everybody(request: Request) -> Response:
    query = {"user": request.query_params.get("user", ""), "address": ""}
    found = [] if "empty" in request.query_params else EVERYBODYS
    return page(request, "sessions.html", sessions=found, total=len(found), next=36, query=query, not_first=False)


def attempts(request: Request) -> Response:
    empty = "empty" in request.query_params
    return page(
        request, "attempts.html", entries=[] if empty else ATTEMPTS, next=None, query={"user": "", "address": "", "outcome": ""},
        waiting=[] if empty else WAITING, more_waiting=0 if empty else 3, not_first=False, words=WORDS,
    )  # fmt: skip


def confirm(request: Request) -> Response:
    has = State(totp="code" in request.query_params, passkey=False, recovery=True, asked=False)
    wait = 12 if "slow" in request.query_params else 0
    wrong = "The password or the code is wrong." if "wrong" in request.query_params else ""
    return page(
        request, "confirm.html", actor=ADA, next="/account/tokens/new", asked=Asked("/account/tokens/new"), error=wrong,
        retry_after=wait, factors=has, minutes=15, has_password="only" not in request.query_params,
        passkeys=Party("cloud.example.org", "cloud", "https://cloud.example.org") if "key" in request.query_params else None,
    )  # fmt: skip


def back(request: Request) -> Response:
    return RedirectResponse("/account/sessions", 303)


_BOTH = ["GET", "POST"]
ROUTES = [
    Route("/account", password, methods=_BOTH),
    Route("/account/keys", keys),
    Route("/account/tokens", tokens),
    Route("/account/tokens/new", new_token, methods=_BOTH),
    Route("/account/tokens/made", made_token),
    Route("/account/sessions", sessions),
    Route("/users/ada/tokens", others_tokens),
    Route("/users/ada/identities", others_identities),
    Route("/confirm/again", once_more),
    Route("/sessions", everybody),
    Route("/attempts", attempts),
    Route("/confirm", confirm, methods=_BOTH),
    Route("/account/{path:path}", back, methods=["POST"]),
    Route("/sessions/{verb}", back, methods=["POST"]),
    Route("/attempts/clear", back, methods=["POST"]),
]
PAGES = (
    "/account",
    "/account?forced=1",
    "/account/keys",
    "/account/tokens",
    "/account/tokens?empty=1",
    "/account/tokens/new",
    "/account/tokens/made",
    "/account/sessions",
    "/users/ada/tokens",
    "/users/ada/identities",
    "/users/ada/identities?empty=1&wrong=1",
    "/sessions",
    "/sessions?user=ada",
    "/sessions?empty=1",
    "/attempts",
    "/attempts?empty=1",
    "/confirm",
    "/confirm?code=1&wrong=1",
    "/confirm?slow=1",
    "/confirm?key=1&code=1",
    "/confirm?key=1&only=1",
    "/confirm/again",
)
