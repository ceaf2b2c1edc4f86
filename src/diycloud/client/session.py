"""Where a sign-in is kept: $XDG_CONFIG_HOME/diycloud/session.json, for its owner's eyes only.

The token in it is as good as the password for as long as it holds, so a file that others can read, that somebody else
owns or that is a link is refused, not repaired: it may be known already.
Source: XDG Base Directory Specification (a relative XDG_CONFIG_HOME is ignored).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from diycloud.client.connection import check_url
from diycloud.client.trust import read_authority
from diycloud.errors import InvalidInput, PermissionDenied, Unauthenticated

NAME = "session.json"
MAX_BYTES = 1 << 20
SIGN_IN = "Sign in: `diycloud login URL`."


class Session(msgspec.Struct, frozen=True):
    """A sign-in. token: empty after signing out, when the rest is still good to know. expires_at: Unix seconds.

    authority: the only one believed for this server (PEM), empty: the system's.
    """

    url: str
    username: str = ""
    token: str = ""
    expires_at: int = 0
    authority: str = ""

    def check(self) -> Session:
        """Return it if somebody is signed in. Raises Unauthenticated."""
        if not self.token:
            raise Unauthenticated(f"Nobody is signed in at {self.url}.", SIGN_IN)
        if 0 < self.expires_at <= time.time():
            ended = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.expires_at))
            raise Unauthenticated(f"Your sign-in at {self.url} ended at {ended}.", "`diycloud login` begins a new one.")
        return self


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the command line's own settings."""
    base = environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "diycloud"


def find(server: str = "", environ: Mapping[str, str] = os.environ) -> Session | None:
    """Return the sign-in to use: of the environment (DIYCLOUD_URL, DIYCLOUD_TOKEN or a file's DIYCLOUD_TOKEN_FILE,
    DIYCLOUD_CA), else the kept one.

    server: the address that is wanted; empty: any. None: there is no sign-in, or it is for another server. Raises
    InvalidInput, PermissionDenied for a file that others could have read.
    """
    wanted, token = server or environ.get("DIYCLOUD_URL", ""), _token(environ)
    wanted = check_url(wanted) if wanted else ""
    if token:
        if not wanted:
            raise InvalidInput(
                "A token is set (DIYCLOUD_TOKEN), but no server.", "Set DIYCLOUD_URL, or say --server URL."
            )
        file = environ.get("DIYCLOUD_CA", "")
        return Session(wanted, token=token, authority=read_authority(file) if file else "")
    found = read(environ)
    return found if found is not None and wanted in ("", found.url) else None


def _token(environ: Mapping[str, str]) -> str:
    """Return the token of the environment, or of the file that it names (its first line). Raises InvalidInput."""
    file = environ.get("DIYCLOUD_TOKEN_FILE", "")
    if environ.get("DIYCLOUD_TOKEN") or not file:
        return environ.get("DIYCLOUD_TOKEN", "").strip()
    try:
        with Path(file).open(encoding="ascii") as text:
            return text.readline(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} (DIYCLOUD_TOKEN_FILE) cannot be read: {error}.") from None


def read(environ: Mapping[str, str] = os.environ) -> Session | None:
    """Return the kept sign-in, None if there is none. Raises PermissionDenied for a file that is not safe."""
    path = folder(environ) / NAME
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        why = "is a link" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise PermissionDenied(f"{path} {why}.", "Remove it and sign in again.") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionDenied(f"{path} is not a file of yours.", "Remove it and sign in again.")
        if found.st_mode & 0o077:
            raise PermissionDenied(
                f"Others can read {path}, which is as good as your password.", "Remove it and sign in again."
            )
        text = os.read(descriptor, MAX_BYTES)
    finally:
        os.close(descriptor)
    try:
        session = msgspec.json.decode(text, type=Session)
        return msgspec.structs.replace(session, url=check_url(session.url))
    except (msgspec.DecodeError, InvalidInput):
        raise InvalidInput(f"{path} is damaged.", "Remove it and sign in again.") from None


def write(session: Session, environ: Mapping[str, str] = os.environ) -> Path:
    """Keep a sign-in, in place of an earlier one at once or not at all. Returns where. Raises PermissionDenied."""
    above = folder(environ)
    try:
        above.parent.mkdir(parents=True, exist_ok=True)
        above.mkdir(mode=0o700, exist_ok=True)
        at = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(at).st_uid != os.geteuid():
                raise PermissionDenied(f"{above} is not yours.", "Remove it, or set XDG_CONFIG_HOME.")
            os.fchmod(at, 0o700)
            _replace(at, msgspec.json.format(msgspec.json.encode(session), indent=2) + b"\n")
        finally:
            os.close(at)
    except OSError as error:
        why = "is a link" if above.is_symlink() else f"cannot be written: {error.strerror}"
        raise PermissionDenied(
            f"{above} {why}.", "The sign-in is kept there; XDG_CONFIG_HOME says where else."
        ) from None
    return above / NAME


def _replace(at: int, data: bytes) -> None:
    """Write the file in an open folder: a new one, moved into its place when it is whole."""
    temporary = f".{NAME}.{os.urandom(8).hex()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=at)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, NAME, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        os.unlink(temporary, dir_fd=at)
        raise
    os.fsync(at)


def forget(environ: Mapping[str, str] = os.environ) -> None:
    """Forget the token, and remember which server it was and what vouches for it (as ssh does with hosts)."""
    found = read(environ)
    if found is not None:
        write(Session(found.url, found.username, authority=found.authority), environ)
