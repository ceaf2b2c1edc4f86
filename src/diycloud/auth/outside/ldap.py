"""A directory that is asked by LDAP who somebody is: search, then bind as them (RFC 4511, 4513).

ldap3 blocks, so it works in threads of its own, few and with a bounded queue; nothing of it is loaded without a directory.
Never tried: an empty password (an "unauthenticated bind" of RFC 4513, 5.1.2 succeeds for everybody), referrals, and going on
without encryption where it is wanted.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar
from urllib.parse import urlsplit

import ldap3
import structlog
from ldap3.core.exceptions import LDAPException

from diycloud.auth.outside.person import MAX_SUBJECT, Person
from diycloud.auth.outside.secret_file import read_secret
from diycloud.config_sign_in import LDAP, LdapSettings
from diycloud.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()
THREADS, QUEUE = 8, 32
MAX_GROUPS = 1000
SUCCESS, SIZE_LIMIT, NO_SUCH_OBJECT, INVALID_CREDENTIALS = 0, 4, 32, 49
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@-")
REFUSED = frozenset({INVALID_CREDENTIALS, NO_SUCH_OBJECT, 19, 34, 48, 50, 53})
"""Results of a bind that say no: constraint, syntax, inappropriate, no rights and unwilling beside the plain ones (RFC 4511,
A.1). All others say that the directory cannot answer."""


class Entry(NamedTuple):
    """One of the directory's. attributes: by name in small letters, as bytes."""

    dn: str
    attributes: Mapping[str, Sequence[bytes]]

    def first(self, name: str) -> bytes:
        return next(iter(self.attributes.get(name.lower(), ())), b"")

    def text(self, name: str) -> str:
        found = self.first(name).decode("utf-8", "replace")
        return "".join(c for c in found if c.isprintable())[:200].strip()


def escape_filter(value: str | bytes) -> str:
    """Return a value as a search filter takes it: every byte as hex that could have a meaning to any reader.

    Source: RFC 4515, 3. Blanks too, as ldap3 leaves them out at the ends.
    """
    raw = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:02x}" for byte in raw)


def escape_dn(value: str) -> str:
    """Return a value as a distinguished name takes it. Source: RFC 4514, 2.4."""
    last = len(value) - 1

    def escaped(at: int, char: str) -> str:
        if char in '"+,;<>=\\' or (char == " " and at in (0, last)) or (char == "#" and at == 0):
            return f"\\{char}"
        return f"\\{ord(char):02x}" if char < " " or char == "\x7f" else char

    return "".join(escaped(at, char) for at, char in enumerate(value))


def bind_name(template: str, username: str) -> str:
    """Return as whom somebody binds without a search. `{username}@example.org` is no name of the directory's."""
    return template.replace("{username}", escape_dn(username) if "=" in template else username)


class _Tls(ldap3.Tls):
    """Encryption by Python's own context, which checks the certificate and the host's name in it."""

    def __init__(self, context: ssl.SSLContext, timeout_s: float) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._context, self._timeout_s = context, timeout_s

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        connection.socket.settimeout(self._timeout_s)
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.socket = self._context.wrap_socket(connection.socket, server_hostname=connection.server.host)


class Directory:
    """Asks one directory. Every method raises Unavailable if none of its servers answers."""

    def __init__(self, settings: LdapSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(THREADS, "ldap")
        self._free = threading.BoundedSemaphore(THREADS + QUEUE)
        self._good = 0
        self._context: ssl.SSLContext | None = None

    async def close(self) -> None:
        """End the threads, once what they do has ended."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def prove(
        self, username: str, password: str, *, subject: str | None = None, may: bool = True
    ) -> Person | None:
        """Return whom a name and password prove, None if they prove nobody.

        subject: the entry that this name has to be. may False: the same is asked, with a password that nobody has.
        """
        return await self._run(self._prove, username, password if may else "", subject)

    async def find(self, username: str) -> Person | None:
        """Return whom the directory knows by a name, without groups."""
        return await self._run(self._find, username)

    async def missing(self, subjects: Sequence[str]) -> list[str]:
        """Return who of these is not found any more, by the filter that finds people for signing in."""
        return await self._run(self._missing, subjects)

    async def check(self) -> str:
        """Return how the directory answers, in words. Raises Unavailable with what is wrong."""
        return await self._run(self._check)

    async def _run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if not self._free.acquire(blocking=False):
            raise Unavailable("Too many sign-ins at once.", "Try again in a few seconds.")
        job = self._threads.submit(fn, *args, **kwargs)
        job.add_done_callback(lambda _: self._free.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job), 3 * self._settings.timeout_s)
        except TimeoutError:
            log.warning("directory too slow", seconds=3 * self._settings.timeout_s)
            raise _away() from None

    # -- in threads

    def _prove(self, username: str, password: str, subject: str | None) -> Person | None:
        settings = self._settings
        if settings.bind_template:
            name = bind_name(settings.bind_template, username if password else secrets.token_hex(8))
            with self._connect() as connection:
                if not self._bind(connection, name, password or secrets.token_hex()):
                    return None
                return self._person(connection, self._search(connection, username, subject))
        with self._as_ourselves() as connection:
            entry = self._search(connection, username, subject)
            nobody = f"cn={secrets.token_hex(8)},{settings.user_base}"  # so that who is not there takes as long
            with self._connect() as theirs:
                known = entry is not None and password
                if not self._bind(
                    theirs, entry.dn if entry and known else nobody, password if known else secrets.token_hex()
                ):
                    return None
            return self._person(connection, entry) if known else None

    def _find(self, username: str) -> Person | None:
        with self._as_ourselves() as connection:
            return self._person(connection, self._search(connection, username, None), groups=False)

    def _missing(self, subjects: Sequence[str]) -> list[str]:
        with self._as_ourselves() as connection:
            return [subject for subject in subjects if self._search(connection, "", subject) is None]

    def _check(self) -> str:
        settings = self._settings
        for at, url in enumerate(settings.urls):
            with self._connect(at) as connection:
                if settings.bind_template and not settings.bind_dn:
                    continue
                self._bind_ourselves(connection)
                if not connection.search(settings.user_base, "(objectClass=*)", ldap3.BASE, attributes=["1.1"]):
                    said = connection.result["description"]
                    raise Unavailable(
                        f"{url} does not show {settings.user_base}: {said}.", "See sign_in.ldap.user_base."
                    )
        return f"{', '.join(settings.urls)}: answers, encrypted as set, and shows {settings.user_base}"

    @contextmanager
    def _as_ourselves(self) -> Iterator[ldap3.Connection]:
        with self._connect() as connection:
            self._bind_ourselves(connection)
            yield connection

    def _bind_ourselves(self, connection: ldap3.Connection) -> None:
        settings = self._settings
        if settings.bind_dn and not self._bind(connection, settings.bind_dn, read_secret(settings.bind_password_file)):
            log.error("the directory refuses bind_dn", dn=settings.bind_dn)
            raise Unavailable(f"The directory refuses {settings.bind_dn}.", "See sign_in.ldap.bind_password_file.")

    @contextmanager
    def _connect(self, only: int | None = None) -> Iterator[ldap3.Connection]:
        """Open a connection, encrypted as the settings say, to the server that answered last, or the next one."""
        urls = self._settings.urls
        order = [only] if only is not None else [(self._good + step) % len(urls) for step in range(len(urls))]
        for at in order:
            try:
                connection = self._open(urls[at])
            except (LDAPException, OSError, ValueError) as error:
                log.warning("directory does not answer", url=urls[at], reason=str(error)[:300])
                if at == order[-1]:
                    raise _away(str(error)[:300] if only is not None else "") from error
            else:
                self._good = at
                break
        try:
            yield connection
        except LDAPException as error:
            log.warning("directory fails", url=urls[self._good], reason=str(error)[:300])
            raise _away() from error
        finally:
            try:
                connection.unbind()
            except (LDAPException, OSError):
                pass  # it is closed

    def _open(self, url: str) -> ldap3.Connection:
        settings, parts = self._settings, urlsplit(url)
        encrypted = parts.scheme == "ldaps"
        server = ldap3.Server(
            parts.hostname or "", parts.port or (636 if encrypted else 389), use_ssl=encrypted, get_info=ldap3.NONE,
            tls=_Tls(self._tls_context(), settings.timeout_s), connect_timeout=settings.timeout_s,
        )  # fmt: skip
        connection = ldap3.Connection(
            server, auto_bind=ldap3.AUTO_BIND_NONE, auto_referrals=False, read_only=True, check_names=False,
            receive_timeout=math.ceil(settings.timeout_s),
        )  # fmt: skip
        try:
            connection.open(read_server_info=False)
            if not encrypted and settings.starttls:
                connection.start_tls(read_server_info=False)  # raises unless it goes on encrypted
        except BaseException:
            if connection.socket is not None:  # it would be left open
                connection.socket.close()
            raise
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context(cafile=self._settings.ca_file or None)
        return self._context

    def _bind(self, connection: ldap3.Connection, name: str, password: str) -> bool:
        """Tell whether the directory takes a name and password. Raises Unavailable if it cannot tell."""
        if not password or not name:
            return False
        connection.authentication, connection.user, connection.password = ldap3.SIMPLE, name, password
        if connection.bind(read_server_info=False):
            return True
        if connection.result["result"] not in REFUSED:
            log.warning("directory cannot check a password", result=connection.result["description"])
            raise _away()
        return False

    def _search(self, connection: ldap3.Connection, username: str, subject: str | None) -> Entry | None:
        """Return the one entry of a name, or of a subject; None if there is none or more than one."""
        settings = self._settings
        typed = escape_filter(username) if subject is None else "*"
        wanted = settings.user_filter.replace("{username}", typed)
        if subject is not None:
            wanted = f"(&({settings.subject}={escape_filter(_raw_subject(settings, subject))}){wanted})"
        attributes = [settings.subject, settings.username, settings.full_name, settings.email]
        found = self._entries(
            connection, settings.user_base, wanted, [*attributes, *filter(None, [settings.member_of])], limit=2
        )
        if len(found) > 1:
            log.warning("the directory has more than one of a name", name=username, first=found[0].dn)
        return found[0] if len(found) == 1 else None

    def _entries(
        self, connection: ldap3.Connection, base: str, wanted: str, attributes: Sequence[str], *, limit: int
    ) -> list[Entry]:
        connection.search(
            base, wanted, ldap3.SUBTREE, attributes=[*attributes], size_limit=limit,
            time_limit=math.ceil(self._settings.timeout_s),
        )  # fmt: skip
        if connection.result["result"] not in (SUCCESS, SIZE_LIMIT, NO_SUCH_OBJECT):
            log.error("the directory refuses a search", base=base, result=connection.result["description"])
            raise _away()
        return [
            Entry(found["dn"], {name.lower(): values for name, values in found["raw_attributes"].items()})
            for found in connection.response or ()
            if found["type"] == "searchResEntry"
        ]

    def _person(self, connection: ldap3.Connection, entry: Entry | None, *, groups: bool = True) -> Person | None:
        if entry is None:
            return None
        settings = self._settings
        subject = _subject(settings, entry.first(settings.subject))
        if not subject:
            log.error("the directory does not tell who somebody is", dn=entry.dn, attribute=settings.subject)
            return None
        return Person(
            LDAP, subject, entry.text(settings.username), entry.text(settings.email), settings.trust_email,
            entry.text(settings.full_name), self._groups(connection, entry) if groups else frozenset(),
        )  # fmt: skip

    def _groups(self, connection: ldap3.Connection, entry: Entry) -> frozenset[str]:
        """Return the groups of a person: each by its whole name and by the first part of it."""
        settings = self._settings
        names = [value.decode("utf-8", "replace") for value in entry.attributes.get(settings.member_of.lower(), ())]
        if settings.group_base:
            wanted = settings.group_filter.replace("{dn}", escape_filter(entry.dn))
            wanted = wanted.replace("{username}", escape_filter(entry.text(settings.username)))
            names += [e.dn for e in self._entries(connection, settings.group_base, wanted, ["1.1"], limit=MAX_GROUPS)]
        return frozenset(part for name in names[:MAX_GROUPS] for part in (name, first_part(name)) if part)


_FIRST_PART = re.compile(rb"[^=,+]+=\s*((?:\\.|[^,+\\])*)", re.DOTALL)
_ESCAPED = re.compile(rb"\\(?:([0-9A-Fa-f]{2})|(.))", re.DOTALL)


def first_part(dn: str) -> str:
    """Return the value of a distinguished name's first part, empty if it has none: `cn=Staff,ou=groups` is Staff.

    Source: RFC 4514, 3.
    """
    found = _FIRST_PART.match(dn.encode())
    if found is None:
        return ""
    value = _ESCAPED.sub(lambda m: bytes.fromhex(m[1].decode()) if m[1] else m[2], found[1])
    return value.decode("utf-8", "replace")


def _is_guid(settings: LdapSettings) -> bool:
    return settings.subject.lower() == "objectguid"


def _subject(settings: LdapSettings, raw: bytes) -> str:
    """Return a subject as text; Active Directory's are 16 bytes ([MS-DTYP] 2.3.4.2)."""
    if _is_guid(settings):
        return str(uuid.UUID(bytes_le=raw)) if len(raw) == 16 else ""
    text = raw.decode("utf-8", "replace")
    return text if len(text) <= MAX_SUBJECT and text.isprintable() else ""


def _raw_subject(settings: LdapSettings, subject: str) -> bytes:
    if not _is_guid(settings):
        return subject.encode()
    try:
        return uuid.UUID(subject).bytes_le
    except ValueError:
        return b"\0"


def _away(reason: str = "") -> Unavailable:
    said = f"The directory does not answer{f': {reason}' if reason else ''}."
    return Unavailable(
        said.replace("..", "."), "Try again in a few minutes. Who has a password here signs in with that."
    )
