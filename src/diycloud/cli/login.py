"""`diycloud login`, `logout` and `whoami`: the same command line, for a server somewhere else."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping

import msgspec

from diycloud.cli.output import as_json, facts
from diycloud.cli.passwords import add_password, given_password, read_password
from diycloud.cli.transport import Target, checked, send
from diycloud.client import session, trust
from diycloud.client.cloud import Cloud, SignedIn
from diycloud.client.connection import check_url, probe, split_url
from diycloud.core.routes import PREFIX
from diycloud.errors import DiyCloudError, InvalidInput, SecondFactorNeeded, Unauthenticated

PROBE_S = 15.0
TOKEN_PREFIX = "dct_"  # noqa: S105 - how every API token begins (auth/tokens.py, which takes long to load)
ENROL = "set up a second factor first: diycloud factor begin-totp"
CHOOSE = "choose a password of your own first: diycloud account password"


def add_options(parser: argparse.ArgumentParser, verb: str) -> None:
    """Give a verb its options."""
    if verb == "login":
        parser.add_argument(
            "url", nargs="?", metavar="URL", help="such as https://cloud.example.org; default: the last"
        )
        parser.add_argument("--username", metavar="NAME", help="who signs in; asked for if it is not given")
        add_password(parser, "password")
        add_password(parser, "code")
        parser.add_argument(
            "--token-stdin",
            action="store_true",
            help="keep an API token, read from standard input, instead of signing in",
        )
        parser.add_argument("--ca", metavar="FILE", help="the server's authority (its ca.crt), the only one believed")
        parser.add_argument(
            "--fingerprint", metavar="SHA256", help="believe the authority that the server offers if this is its own"
        )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_RUN[verb])


def login(arguments: argparse.Namespace) -> int:
    """Sign in and keep the token. Raises Untrusted, Unauthenticated, InvalidInput where there is nobody to ask."""
    before = session.read()
    url = check_url(arguments.url or arguments.server or (before.url if before else ""))
    known = before if before is not None and before.url == url else None
    authority = _authority(url, known.authority if known else "", arguments)
    if arguments.token_stdin:
        return _keep_token(arguments, url, authority)
    username = arguments.username or _ask("Username", known.username if known else "")
    password = given_password(arguments, "password", needed=True, again=False)
    with Cloud.of_session(session.Session(url, authority=authority), timeout=PROBE_S * 4) as cloud:
        done = _begin(cloud, username, password or "", arguments)
    kept = session.Session(url, done.username, done.token, done.expires_at, authority)
    session.write(kept)
    found = {**_facts(kept), "must_change_password": done.must_change_password}
    _say(arguments, found, f"Signed in at {url} as {done.username} until {_clock(done.expires_at)}.")
    if done.must_change_password:
        sys.stderr.write(f"note: {CHOOSE}\n")
    if done.must_enrol:
        sys.stderr.write(f"note: {ENROL}\n")
    return 0


class _Whose(msgspec.Struct):
    username: str
    scopes: list[str] | None = None


def _keep_token(arguments: argparse.Namespace, url: str, authority: str) -> int:
    """Keep an API token as the sign-in. Raises InvalidInput for what is none, Unauthenticated if it does not hold there."""
    token = sys.stdin.readline(4096).strip()
    if not token.isascii() or not token.startswith(TOKEN_PREFIX):
        raise InvalidInput(
            "That is no API token.", f"It begins with {TOKEN_PREFIX}; `diycloud token create` makes one."
        )
    kept = session.Session(url, token=token, authority=authority)
    with Cloud.of_session(kept, timeout=PROBE_S) as cloud:
        whose: _Whose = cloud.read(f"{PREFIX}/auth/whoami", _Whose)
    kept = msgspec.structs.replace(kept, username=whose.username)
    session.write(kept)
    found = {"username": whose.username, "url": url, "scopes": whose.scopes}
    _say(arguments, found, f"Kept a token of {whose.username} for {url}.")
    return 0


def _begin(cloud: Cloud, username: str, password: str, arguments: argparse.Namespace) -> SignedIn:
    """Sign in, asking for the code of the second factor where there is one, and again if it is wrong."""
    given = given_password(arguments, "code", again=False)
    try:
        return cloud.begin_session(username, password, given or "")
    except SecondFactorNeeded as error:
        needed = error
    while True:
        if given is not None or not sys.stdin.isatty() or set(needed.ways) == {"passkey"}:
            raise needed
        sys.stderr.write(f"{needed.message} The six digits of your app, or a recovery code.\n")
        try:
            return cloud.finish_session(needed.ticket, read_password("", None, "code", again=False) or "")
        except SecondFactorNeeded as error:
            needed = error


def logout(arguments: argparse.Namespace) -> int:
    """End the sign-in on the server, and forget its token here whatever the server says."""
    kept = session.read()
    if kept is None or not kept.token:
        _say(arguments, {}, "Nobody is signed in.")
        return 0
    session.forget()
    if kept.token.startswith(TOKEN_PREFIX):
        _say(
            arguments,
            {**_facts(kept), "ended": False},
            "The API token is forgotten here; `diycloud token revoke` ends it.",
        )
        return 0
    ended = True
    try:
        Cloud.of_session(kept, timeout=PROBE_S, patience=0).sign_out()
    except DiyCloudError as error:
        ended = error.code == "unauthenticated"  # it had ended before
        if not ended:
            until = _clock(kept.expires_at)
            sys.stderr.write(f"note: {error.message} The token is forgotten here, and holds there until {until}.\n")
    _say(arguments, {**_facts(kept), "ended": ended}, f"Signed out at {kept.url}.")
    return 0


def whoami(arguments: argparse.Namespace) -> int:
    """Say who the command line is, and where. Raises Unauthenticated if the sign-in does not hold any more."""
    target = Target.of(arguments)
    kept = target.session()
    if kept is None and not target.is_here:
        raise Unauthenticated("Nobody is signed in, and this machine has no server of its own.", session.SIGN_IN)
    if kept is None:
        here = {"username": "root", "url": str(target.paths.server_socket)}
        _say(arguments, here, facts(list(here.items())))
        return 0
    found = {**_facts(kept), "must_change_password": False}
    told = checked(send(target, "GET", f"{PREFIX}/auth/whoami", {}, None))
    found |= {
        "username": told["username"],
        "scopes": told["scopes"],
        "must_change_password": told["must_change_password"],
    }
    pairs = [
        ("user", told["username"]),
        ("may", ", ".join(told["scopes"]) if told["scopes"] is not None else None),
        ("server", kept.url),
        ("until", _clock(kept.expires_at) if kept.expires_at else None),
        ("believed by", "an authority of its own" if kept.authority else "the system's authorities"),
    ]
    _say(arguments, found, facts([*pairs, ("next", CHOOSE)] if found["must_change_password"] else pairs))
    return 0


def _authority(url: str, known: str, arguments: argparse.Namespace) -> str:
    """Return the authority to believe for a server, empty for the system's. Asks as ssh does where nothing vouches for it."""
    if arguments.ca:
        return trust.read_authority(arguments.ca)
    scheme, host, port = split_url(url)
    if scheme == "http":
        return ""
    changed = False
    for authority in dict.fromkeys((known, "")):
        try:
            probe(url, authority)
            return authority
        except trust.Untrusted as error:
            if not error.unknown_authority:
                raise
            changed = changed or authority != ""
    offered = trust.fetch_authority(host, port)
    _accept(host, trust.fingerprint(offered), arguments.fingerprint, changed=changed)
    probe(url, offered)
    return offered


def _accept(host: str, shown: str, wanted: str | None, *, changed: bool) -> None:
    """Return if the fingerprint is the one wanted, or a person says so. Raises Untrusted."""
    if wanted is not None:
        if wanted.replace(":", "").upper() != shown.replace(":", ""):
            raise trust.Untrusted(
                f"The authority of {host} has another fingerprint: {shown}.",
                "Nothing was sent. Whoever answers there may not be the server you mean.",
            )
        return
    if changed:
        sys.stderr.write(
            f"WARNING: the authority of {host} is another than at the last sign-in. Either the server was installed anew,\n"
            "or somebody between here and there reads along.\n"
        )
    sys.stderr.write(
        f"Nothing here vouches for {host}. The SHA-256 fingerprint of the authority that it offers:\n  {shown}\n"
        "Compare it with what the installation printed, or with what `diycloud status` prints on the server.\n"
    )
    if not sys.stdin.isatty():
        raise trust.Untrusted(
            f"The authority of {host} is not known.", "Say --fingerprint SHA256 or --ca FILE: there is nobody to ask."
        )
    if _ask("Believe it from now on (yes/no)").lower() != "yes":
        raise trust.Untrusted(f"The authority of {host} is not believed.", "Nothing was sent.")


def _ask(question: str, default: str = "") -> str:
    if not sys.stdin.isatty():
        if default:
            return default
        raise InvalidInput("There is no terminal to ask at.", "Say --username NAME.")
    sys.stderr.write(f"{question} [{default}]: " if default else f"{question}: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() or default


def _clock(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _facts(kept: session.Session) -> dict[str, object]:
    return {"username": kept.username, "url": kept.url, "expires_at": kept.expires_at}


def _say(arguments: argparse.Namespace, found: Mapping[str, object], text: str) -> None:
    sys.stdout.write((as_json(found) if arguments.json else text) + "\n")


_RUN: dict[str, Callable[[argparse.Namespace], int]] = {"login": login, "logout": logout, "whoami": whoami}
