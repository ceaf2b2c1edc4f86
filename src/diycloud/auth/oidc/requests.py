"""What an application asks of the authorization endpoint (OpenID Connect Core 1.0, 3.1.2.1; RFC 6749, 4.1.1).

Whoever asks is unknown until the application and its redirect_uri are found in the table: before that an error is shown
to the person (InvalidInput), afterwards it is the application's (AuthorizationError). No value is believed twice: a
parameter that is there more than once is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from diycloud.auth.oidc.clients import Client
from diycloud.auth.oidc.grants import CHALLENGE
from diycloud.errors import InvalidInput

MAX_VALUE = 2048
_HINT = "Go back to the application and try again; if that does not help, tell its administrator."
_UNSUPPORTED = {
    "request": "request_not_supported",
    "request_uri": "request_uri_not_supported",
    "registration": "registration_not_supported",
}


class AuthorizationError(Exception):
    """What the application is told at its redirect_uri. error: a word of RFC 6749, 4.1.2.1, or OpenID Connect's 3.1.2.6."""

    def __init__(self, error: str, description: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.description = description


class Parameters(NamedTuple):
    """A query's parameters. values: of those that are there once; twice: names of the others."""

    values: Mapping[str, str]
    twice: frozenset[str]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Parameters:
        """Take a query apart. A parameter without a value counts as left out (RFC 6749, 3.1)."""
        given = [(name, value) for name, value in pairs if value]
        counts = Counter(name for name, _ in given)
        return cls(
            {name: value for name, value in given if counts[name] == 1},
            frozenset(name for name, count in counts.items() if count > 1),
        )

    def only(self, name: str) -> str:
        """Return what must be there, once. Raises InvalidInput."""
        if name not in self.values or len(self.values[name]) > MAX_VALUE:
            raise InvalidInput(f"The application sent no valid {name}.", _HINT)
        return self.values[name]


class Asked(NamedTuple):
    """A request that may be answered. scopes: those that the application may have; state: sent back as it came.

    challenge: empty without PKCE; max_age: seconds, None for any.
    """

    client: Client
    redirect_uri: str
    scopes: tuple[str, ...]
    state: str
    nonce: str
    challenge: str
    prompt: frozenset[str]
    max_age: int | None
    login_hint: str


def addressee(client: Client | None, given: Parameters) -> str:
    """Return where the answer may be sent. Raises InvalidInput for an application or address that is not in the table."""
    if client is None or not client.app.enabled:
        raise InvalidInput("This application is not known here.", _HINT)
    uri = given.only("redirect_uri")
    if not client.takes_back_at(uri):
        raise InvalidInput(f"{client.app.title} asked to send you to an address that is not its own.", _HINT)
    return uri


def read(client: Client, redirect_uri: str, given: Parameters) -> Asked:
    """Return the request of an application that is known. Raises AuthorizationError."""
    if given.twice:
        raise AuthorizationError("invalid_request", "A parameter is there twice.")
    values = given.values
    if any(len(value) > MAX_VALUE or "\0" in value for value in values.values()):
        raise AuthorizationError("invalid_request", "A parameter is too long, or has a NUL.")
    for name, error in _UNSUPPORTED.items():
        if name in values:
            raise AuthorizationError(error)
    if "response_type" not in values:
        raise AuthorizationError("invalid_request", "There is no response_type.")
    if values["response_type"] != "code":
        raise AuthorizationError("unsupported_response_type", "Only response_type=code is supported.")
    if values.get("response_mode", "query") != "query":
        raise AuthorizationError("invalid_request", "Only response_mode=query is supported.")
    prompt = frozenset(values.get("prompt", "").split())
    if "none" in prompt and len(prompt) > 1:
        raise AuthorizationError("invalid_request", "prompt=none stands alone.")
    return Asked(
        client=client,
        redirect_uri=redirect_uri,
        scopes=_scopes(client, values.get("scope", "")),
        state=values.get("state", ""),
        nonce=values.get("nonce", ""),
        challenge=_challenge(client, values),
        prompt=prompt,
        max_age=_max_age(values.get("max_age")),
        login_hint=values.get("login_hint", ""),
    )


def _scopes(client: Client, text: str) -> tuple[str, ...]:
    """Return what is asked for and allowed; what nobody knows is passed over (OpenID Connect Core 1.0, 3.1.2.1)."""
    asked = set(text.split())
    found = tuple(scope for scope in client.app.scopes if scope in asked)
    if not found:
        raise AuthorizationError("invalid_scope", "None of these scopes is for this application.")
    return found


def _challenge(client: Client, values: Mapping[str, str]) -> str:
    """Return the challenge of RFC 7636, by S256 alone: `plain` shows the verifier to whoever sees the request."""
    challenge, method = values.get("code_challenge"), values.get("code_challenge_method")
    if challenge is None:
        if client.app.pkce or method is not None:
            raise AuthorizationError("invalid_request", "PKCE is needed: send code_challenge.")
        return ""
    if method != "S256":
        raise AuthorizationError("invalid_request", "Only code_challenge_method=S256 is supported.")
    if not CHALLENGE.match(challenge):
        raise AuthorizationError("invalid_request", "The code_challenge is none of S256.")
    return challenge


def _max_age(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise AuthorizationError("invalid_request", "max_age is a number of seconds.")
    return int(text)


def answer(uri: str, issuer: str, state: str, **more: str) -> str:
    """Return the address that takes an answer to the application: RFC 6749, 4.1.2, with `iss` (RFC 9207)."""
    told = {**more, **({"state": state} if state else {}), "iss": issuer}
    return extended(uri, told)


def extended(uri: str, parameters: Mapping[str, str]) -> str:
    """Return an address with more parameters; those that it has stay (RFC 6749, 3.1.2)."""
    if not parameters:
        return uri
    separator = "&" if "?" in uri else "?"
    return f"{uri}{separator}{urlencode(parameters)}"
