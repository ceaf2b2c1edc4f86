"""What is done with second factors: an app's codes, passkeys, recovery codes. How: auth/factor_service.py."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from diycloud.actions.action import Action, Audited, Permission, action
from diycloud.actions.fields import Username

Code = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"\A[^\x00-\x1f\x7f]*\Z",
        extra={"rule": "the six digits that the app shows", "secret": True, "help": "six digits of the app"},
    ),
]
PasskeyName = Annotated[
    str,
    Meta(
        max_length=60,
        pattern=r"\A(?!\s)[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+(?<!\s)\Z",
        extra={"rule": "1–60 printable characters, no blank at the ends", "help": "what you call it, such as my phone"},
    ),
]
PasskeyId = Annotated[
    str,
    Meta(
        pattern=r"\A[1-9][0-9]{0,17}\Z",
        extra={"rule": "a passkey's number, as `factor show` tells it", "help": "which passkey, by its number"},
    ),
]
BrowsersAnswer = Annotated[
    str,
    Meta(
        min_length=2,
        max_length=16_000,
        pattern=r"\A[^\x00-\x1f\x7f]*\Z",
        extra={
            "rule": "what navigator.credentials gave, as JSON text (PublicKeyCredential.toJSON)",
            "help": "the browser's answer, as JSON text",
            "secret": True,
        },
    ),
]


class Passkey(msgspec.Struct, frozen=True):
    """A passkey. backed_up: it is in an account of its maker's, so that losing the device does not lose it."""

    id: str
    name: str
    backed_up: bool
    created_at: str
    last_used: str | None


class Factors(msgspec.Struct, frozen=True):
    """What a user signs in with beside the password. totp_since: None without an app; required: why one must be there, empty
    if it need not."""

    username: str
    totp_since: str | None
    passkeys: list[Passkey]
    codes_left: int
    required: str


class FactorsChanged(msgspec.Struct, frozen=True):
    """The second factors after a change. codes: new recovery codes, shown this once.

    session_token: takes the place of the one that was asked with, where that could do nothing else before.
    """

    factors: Factors
    codes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    session_token: str | None = None


class TotpBegun(msgspec.Struct, frozen=True):
    """What an app needs. secret: base32, to type; uri: what the QR code says; picture: the code as an SVG's `data:` address."""

    secret: str
    uri: str
    picture: str


class PasskeyBegun(msgspec.Struct, frozen=True):
    """options: what navigator.credentials.create takes, as JSON text; origin: the only address at which it works."""

    options: str
    origin: str


@action("factor.show", needs=Permission.FACTORS_READ, audited=Audited.NO)
class ShowFactors(Action[Factors], frozen=True):
    """Show what a user signs in with beside the password."""

    username: Username


@action("factor.reset", needs=Permission.FACTORS)
class ResetFactors(Action[FactorsChanged], frozen=True):
    """Take all second factors and recovery codes of a user away, and sign them out; they are told."""

    username: Username


@action("factor.begin-totp", needs=Permission.ACCOUNT, target="")
class BeginTotp(Action[TotpBegun], frozen=True):
    """Set up an app for codes: get its secret. Nothing is asked of you before you show a first code."""


@action("factor.activate-totp", needs=Permission.ACCOUNT, target="")
class ActivateTotp(Action[FactorsChanged], frozen=True):
    """Show the app's first code: from now on signing in asks for one."""

    code: Code


@action("factor.remove-totp", needs=Permission.ACCOUNT, target="")
class RemoveTotp(Action[FactorsChanged], frozen=True):
    """Ask for no codes of an app any more."""


@action("factor.renew-codes", needs=Permission.ACCOUNT, target="")
class RenewCodes(Action[FactorsChanged], frozen=True):
    """Get ten new recovery codes; the old ones hold no more."""


@action("passkey.begin", needs=Permission.ACCOUNT, target="")
class BeginPasskey(Action[PasskeyBegun], frozen=True):
    """Begin to add a passkey: get what the browser is to be asked."""


@action("passkey.add", needs=Permission.ACCOUNT, target="")
class AddPasskey(Action[FactorsChanged], frozen=True):
    """Add the passkey that the browser made."""

    credential: BrowsersAnswer
    label: PasskeyName = "Passkey"


@action("passkey.rename", needs=Permission.ACCOUNT, target="")
class RenamePasskey(Action[FactorsChanged], frozen=True):
    """Give one of your passkeys another name."""

    passkey: PasskeyId
    label: PasskeyName


@action("passkey.remove", needs=Permission.ACCOUNT, target="")
class RemovePasskey(Action[FactorsChanged], frozen=True):
    """Let one of your passkeys sign in no more."""

    passkey: PasskeyId
