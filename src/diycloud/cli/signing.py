"""Sessions, API tokens and who must wait, as people read them."""

from __future__ import annotations

from typing import Any

from diycloud.cli.output import colour, printable, table

_PROOFS = {"pwd": "password", "otp": "code", "hwk": "passkey", "user": "", "mfa": "", "fed": "outside provider"}


def proofs(methods: list[str]) -> str:
    """Return how it was proved who it is, in plain words."""
    found = [_PROOFS.get(method, method) for method in methods]
    return ", ".join(dict.fromkeys(word for word in found if word))


def _rows(sessions: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (
            s["id"] + (" *" if s["current"] else ""), s["username"], s["device"], s["address"], proofs(s["methods"]),
            s["created_at"], s["last_seen"], s["idle_at"],
        )
        for s in sessions
    ]  # fmt: skip


_HEADINGS = ("ID", "USER", "WITH", "FROM", "PROVED BY", "SINCE (UTC)", "LAST SEEN", "ENDS UNUSED")


def sessions(result: dict[str, Any]) -> str:
    if not result["sessions"]:
        return f"{result['username']} is signed in nowhere."
    text = table(_HEADINGS, _rows(result["sessions"]))
    return text + ("\n* the session that asks" if any(s["current"] for s in result["sessions"]) else "")


def session_page(result: dict[str, Any]) -> str:
    if not result["sessions"]:
        return "Nobody is signed in."
    text = table(_HEADINGS, _rows(result["sessions"]))
    text += f"\n{len(result['sessions'])} of {result['total']}"
    return text + (f"; the next: --before {result['next']}" if result["next"] else "")


def tokens(result: dict[str, Any]) -> str:
    if not result["tokens"]:
        return f"{result['username']} has no API tokens."
    rows = [
        (
            t["key_id"], t["label"], _scopes(t["scopes"]), "expired" if t["expired"] else t["expires_at"],
            t["last_used"] or "never", t["last_address"],
        )
        for t in result["tokens"]
    ]  # fmt: skip
    return table(("KEY ID", "FOR", "MAY", "UNTIL (UTC)", "LAST USED", "FROM"), rows)


def _scopes(scopes: list[str]) -> str:
    """Return the first permissions of a token, and how many more there are."""
    return ", ".join(scopes[:3]) + (f" and {len(scopes) - 3} more" if len(scopes) > 3 else "")


def token_created(result: dict[str, Any]) -> str:
    made = result["token"]
    may = "\n".join(f"  {printable(scope)}" for scope in made["scopes"])
    return (
        f"{colour(result['secret'], 'bold')}\n"
        f"It is shown only now. Whoever has it may, until {made['expires_at']} UTC:\n{may}"
    )


def waiting(result: dict[str, Any]) -> str:
    if not result["waiting"]:
        return "Nobody has to wait."
    rows = [
        (w["username"] or ("(no user's name)" if w["kind"] != "address" else "any"), w["address"] or "any",
         w["failures"], f"{w['seconds']} s")
        for w in result["waiting"]
    ]  # fmt: skip
    text = table(("USER", "FROM", "FAILURES", "WAITS"), rows, right=("FAILURES", "WAITS"))
    return text + (f"\n{result['more']} more." if result["more"] else "")
