"""The errors people see.

DiyCloudError           code            HTTP  exit
├── InvalidInput        invalid-input   422   2     a value breaks a rule; carries every field at fault
├── Unauthenticated     unauthenticated 401   3
│   └── SecondFactorNeeded second-factor-needed 401 3  the password is right; the second factor is still to be shown
├── PermissionDenied    permission-denied 403 4
│   └── ProofNeeded     proof-needed    403   4     who asks must first prove anew who they are
├── NotFound            not-found       404   5
├── Conflict            conflict        409   6     the state of the thing forbids it
├── PreconditionFailed  precondition-failed 412 11  the thing is not as the request says it is (If-Match)
├── Unsupported         unsupported     501   7     this host cannot do it; never pretended
├── HostError           host-error      500   8     the host refused; carries the tool's last lines
├── Unavailable         unavailable     503   9     a part is down or full; try again
└── TooManyRequests     too-many-requests 429 10

Numbers live in tables at the edges (web/problems.py, cli/main.py), not here.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """One field at fault: where it is, what rule it breaks."""

    field: str
    message: str


class DiyCloudError(Exception):
    """Root of the tree. message: what happened; hint: what to do next."""

    code = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InvalidInput(DiyCloudError):
    """Input breaks a rule. Nothing was changed."""

    code = "invalid-input"

    def __init__(self, message: str, hint: str = "", *, errors: Iterable[FieldError] = ()) -> None:
        super().__init__(message, hint)
        self.errors = tuple(errors)

    @classmethod
    def of(cls, errors: Iterable[FieldError]) -> InvalidInput:
        """Make one error of every field at fault."""
        found = tuple(errors)
        return cls("; ".join(f"{e.field}: {e.message}" for e in found), errors=found)


class Unauthenticated(DiyCloudError):
    """Nobody is signed in, or the credentials do not hold."""

    code = "unauthenticated"


class SecondFactorNeeded(Unauthenticated):
    """The password is right, and more is asked. ticket: what to come back with, within five minutes; ways: what may be shown."""

    code = "second-factor-needed"

    def __init__(self, message: str, hint: str = "", *, ticket: str = "", ways: Iterable[str] = ()) -> None:
        super().__init__(message, hint)
        self.ticket = ticket
        self.ways = tuple(ways)


class PermissionDenied(DiyCloudError):
    """The actor may not do this."""

    code = "permission-denied"


class ProofNeeded(PermissionDenied):
    """The actor may, but signed in too long ago: they must prove anew who they are (auth/proof.py)."""

    code = "proof-needed"


class NotFound(DiyCloudError):
    """There is no such thing, or the actor may not know of it."""

    code = "not-found"


class Conflict(DiyCloudError):
    """The state of the thing forbids it (a name taken, a status that does not allow it, an old generation)."""

    code = "conflict"


class PreconditionFailed(DiyCloudError):
    """The thing is not, or no more, as the request says it is. Nothing was changed."""

    code = "precondition-failed"


class Unsupported(DiyCloudError):
    """This host cannot do it."""

    code = "unsupported"


class HostError(DiyCloudError):
    """A program or file of the host refused."""

    code = "host-error"


class Unavailable(DiyCloudError):
    """A part of the platform is down, full or too slow."""

    code = "unavailable"


class TooManyRequests(DiyCloudError):
    """Throttled. retry_after: seconds."""

    code = "too-many-requests"

    def __init__(self, message: str, hint: str = "", *, retry_after: int = 1) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


BY_CODE: dict[str, type[DiyCloudError]] = {
    cls.code: cls
    for cls in (
        InvalidInput,
        Unauthenticated,
        SecondFactorNeeded,
        PermissionDenied,
        ProofNeeded,
        NotFound,
        Conflict,
        PreconditionFailed,
        Unsupported,
        HostError,
        Unavailable,
        TooManyRequests,
    )
}
