"""Second factors as people read them; the QR code of a new app, drawn in the terminal."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from diycloud.actions.action import Action
from diycloud.auth import factor_actions as factors
from diycloud.cli.output import colour, facts, printable


def shown(found: dict[str, Any]) -> str:
    keys = [f"{key['name']} (number {key['id']})" for key in found["passkeys"]]
    pairs = [
        ("user", found["username"]),
        ("app for codes", f"since {found['totp_since']}" if found["totp_since"] else "none"),
        ("passkeys", ", ".join(keys) or "none"),
        ("recovery codes left", found["codes_left"]),
    ]
    return facts([*pairs, ("needed", found["required"])] if found["required"] else pairs)


def changed(result: dict[str, Any]) -> str:
    text = shown(result["factors"])
    if result["codes"]:
        lines = "\n".join(f"  {colour(printable(code), 'bold')}" for code in result["codes"])
        text += f"\n\nRecovery codes, each for one sign-in without the app. They are shown only now:\n{lines}"
    return text


def begun(result: dict[str, Any]) -> str:
    """Return the QR code for the app, the key to type, and what comes next."""
    import segno

    drawn = io.StringIO()
    segno.make(result["uri"], error="l", micro=False).terminal(drawn, compact=True)
    key = " ".join(result["secret"][at : at + 4] for at in range(0, len(result["secret"]), 4))
    return f"{drawn.getvalue()}\nkey   {key}\nnext  diycloud factor activate-totp, with the code that the app shows"


VIEWS: dict[type[Action[Any]], Callable[[Any], str]] = {
    factors.ShowFactors: shown,
    factors.ResetFactors: changed,
    factors.BeginTotp: begun,
    factors.ActivateTotp: changed,
    factors.RemoveTotp: changed,
    factors.RenewCodes: changed,
    factors.RenamePasskey: changed,
    factors.RemovePasskey: changed,
}
