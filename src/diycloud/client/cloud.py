"""The cloud as a Python object."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Generic, NamedTuple, TypeVar

import msgspec

from diycloud.actions.action import Action
from diycloud.actions.download import Download
from diycloud.auth.actions import SignOut
from diycloud.client import bulk, requests, session
from diycloud.client.connection import Channel, Request, check_url, over_network, over_unix
from diycloud.client.trust import read_authority
from diycloud.config import Paths
from diycloud.core.routes import PREFIX, result_type
from diycloud.errors import Unauthenticated
from diycloud.users.actions import ListUsers
from diycloud.users.models import User

R = TypeVar("R")
TIMEOUT_S = 120.0
PATIENCE_S = 30.0
_NEXT = ("cursor", "before")  # the field that asks for the page after; its value is the page's `next`


class Answer(NamedTuple, Generic[R]):
    """An action's result with what HTTP says beside it. etag: of the thing as it is now, for `if_match`; else empty."""

    result: R
    status: int
    etag: str


class SignedIn(msgspec.Struct, frozen=True):
    """What the server gives for a name and password. expires_at: Unix seconds. must_enrol: a second factor comes first."""

    token: str
    username: str
    expires_at: int
    must_change_password: bool
    must_enrol: bool = False


class Cloud:
    """A server, asked as one person. Threads may share it.

    url: such as https://cloud.example.org. token: of `POST /api/v1/auth/login` or an API token. ca: the file of the only
    authority that is believed, else the system's are. timeout: seconds of silence that mean the server is lost.
    patience: how many seconds in all one request waits when the server says `Retry-After`.

    Every method that asks the server raises the errors of `diycloud.errors` (Unavailable if it cannot be reached).
    """

    def __init__(
        self,
        url: str,
        *,
        token: str,
        ca: str | Path | None = None,
        timeout: float = TIMEOUT_S,
        patience: float = PATIENCE_S,
    ) -> None:
        authority = "" if ca is None else read_authority(ca)
        self._channel = over_network(check_url(url), authority=authority, timeout=timeout, patience=patience)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    @classmethod
    def _over(cls, channel: Channel, headers: dict[str, str]) -> Cloud:
        made = cls.__new__(cls)
        made._channel, made._headers = channel, headers
        return made

    @classmethod
    def connect(cls, *, timeout: float = TIMEOUT_S, patience: float = PATIENCE_S) -> Cloud:
        """Ask as the command line would: by DIYCLOUD_URL and DIYCLOUD_TOKEN or
        DIYCLOUD_TOKEN_FILE (and DIYCLOUD_CA, a file), as `diycloud
        login` signed in, or on the server itself as root. Raises Unauthenticated where nobody is signed in."""
        socket = Paths().server_socket
        if os.geteuid() == 0 and not os.environ.get("DIYCLOUD_URL") and socket.exists():
            return cls.at_socket(socket, timeout=timeout, patience=patience)
        found = session.find()
        if found is None:
            raise Unauthenticated("Nobody is signed in.", session.SIGN_IN)
        return cls.of_session(found.check(), timeout=timeout, patience=patience)

    @classmethod
    def at_socket(cls, path: str | Path, *, timeout: float = TIMEOUT_S, patience: float = PATIENCE_S) -> Cloud:
        """Ask at the server's own socket: uid 0 is the administrator there, others are nobody."""
        return cls._over(over_unix(Path(path), timeout=timeout, patience=patience), {})

    @classmethod
    def of_session(cls, kept: session.Session, *, timeout: float = TIMEOUT_S, patience: float = PATIENCE_S) -> Cloud:
        """Ask as somebody who is signed in."""
        channel = over_network(kept.url, authority=kept.authority, timeout=timeout, patience=patience)
        return cls._over(channel, {"Authorization": f"Bearer {kept.token}"} if kept.token else {})

    @classmethod
    def sign_in(
        cls,
        url: str,
        username: str,
        password: str,
        *,
        code: str = "",
        ca: str | Path | None = None,
        timeout: float = TIMEOUT_S,
        patience: float = PATIENCE_S,
    ) -> Cloud:
        """Sign in; `sign_out` ends it again. code: of the second factor, where there is one.

        Raises Unauthenticated, SecondFactorNeeded without the code or with a wrong one, TooManyRequests at once (it is not
        waited for).
        """
        made = cls(url, token="", ca=ca, timeout=timeout, patience=patience)
        try:
            made._headers = {"Authorization": f"Bearer {made.begin_session(username, password, code).token}"}
        except BaseException:
            made.close()
            raise
        return made

    def begin_session(self, username: str, password: str, code: str = "") -> SignedIn:
        """Return a new sign-in's token and end, leaving this object as it is. Raises as `sign_in`."""
        body = {"username": username, "password": password, **({"code": code} if code else {})}
        return self._signed_in("/auth/login", body)

    def finish_session(self, ticket: str, code: str) -> SignedIn:
        """Return what `begin_session` does, for the ticket of a SecondFactorNeeded and a code. Raises as it does."""
        return self._signed_in("/auth/login/second", {"ticket": ticket, "code": code})

    def _signed_in(self, path: str, body: dict[str, str]) -> SignedIn:
        response = self._channel.send(requests.encode("POST", f"{PREFIX}{path}", {}, body), patient=False)
        found: SignedIn = requests.decoded(SignedIn, response)
        return found

    def read(self, path: str, kind: type[R]) -> R:
        """Return what is at a path that is no action's, as a type."""
        found: R = requests.decoded(kind, self._channel.send(requests.encode("GET", path, {}, None, self._headers)))
        return found

    def sign_out(self) -> None:
        """End this sign-in on the server and close."""
        self.run(SignOut())
        self.close()

    def close(self) -> None:
        """Close the connections, those of `on_behalf_of` with them. A later request opens one again."""
        self._channel.close()

    def __enter__(self) -> Cloud:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, action: Action[R], *, if_match: str = "") -> R:
        """Run any action and return its result. if_match: only if the thing is still as it was under this etag."""
        return self.ask(action, if_match=if_match).result

    def ask(self, action: Action[R], *, if_match: str = "") -> Answer[R]:
        """Run any action and return its result with its etag and HTTP's status (202: the host follows later)."""
        if result_type(type(action)) is Download:
            raise TypeError(f"{type(action).__name__} makes a file: download it")
        response = self._channel.send(self._request(action, if_match))
        result = requests.result_of(type(action), response)
        if token := getattr(result, "session_token", None):  # this sign-in goes on under another token
            self._headers["Authorization"] = f"Bearer {token}"
        return Answer(result, response.status, response.headers.get("etag", ""))

    def _request(self, action: Action[Any], if_match: str) -> Request:
        route = requests.route_of(type(action))
        headers = dict(self._headers)
        if if_match:
            headers["If-Match"] = if_match
        if route.keyed:
            headers |= requests.key()
        path, query, body = requests.request_of(route, requests.values_of(action))
        return requests.encode(route.method, path, query, body, headers)

    def download(self, action: Action[Download], file: BinaryIO) -> None:
        """Run an action whose result is a file (an export), and write it as it comes. A break leaves a part in the file."""
        request = self._request(action, "")
        requests.decoded(None, self._channel.send(request, sink=file.write))

    def follow(self, action: Action[R], told: Callable[[dict[str, Any]], object]) -> R:
        """Run what takes long in one request (ImportUsers, BulkUsers), told of each row when the server has done it.

        told: gets a row of the report as JSON has it, such as {"username": "ada", "outcome": "created"}. Nobody is told
        where the server has nothing to tell of.
        """
        lines, asked = bulk.Lines(told), self._request(action, "")
        response = self._channel.send(
            asked._replace(headers={**asked.headers, "Accept": "application/x-ndjson, application/json"}), sink=lines
        )
        if response.status == 200:
            body, problem = lines.rest()
            if problem is not None:
                status = int(problem.get("status", 500))
                raise requests.error_of(status, problem, {}) from requests.Problem(status, problem)
            response = response._replace(body=body)
        return requests.result_of(type(action), response)

    def pages(self, action: Action[R]) -> Iterator[R]:
        """Walk the pages of a list, each asked for when it is wanted. Raises TypeError for what has no pages."""
        names = [name for name in _NEXT if name in type(action).__struct_fields__]
        if not names:
            raise TypeError(f"{type(action).__name__} has no pages")
        while True:
            page: Any = self.run(action)
            yield page
            if page.next is None:
                return
            action = msgspec.structs.replace(action, **{names[0]: page.next})

    def users(self, **filters: Any) -> Iterator[User]:
        """Walk all users that match. filters: fields of ListUsers, such as search="ada", status="all", limit=1000."""
        for page in self.pages(ListUsers(**filters)):
            yield from page.users

    def bulk(
        self,
        actions: Iterable[Action[R]],
        *,
        connections: int = 8,
        progress: Callable[[bulk.Progress], None] | None = None,
    ) -> bulk.Report[R]:
        """Run many actions, some at a time, and return a row for each in order. No failure stops the others.

        progress: called after each, in this thread; `print_progress` writes a line. Ctrl-C lets those under way end.
        """
        return bulk.run_all(self.run, actions, connections=connections, progress=progress)

    def on_behalf_of(self, username: str) -> Cloud:
        """Return the same server asked on behalf of somebody: theirs is the audit's row too. It shares connections."""
        return self._over(self._channel, {**self._headers, "X-On-Behalf-Of": username})
