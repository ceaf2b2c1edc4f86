"""Applications that sign people in through the platform, as people read them."""

from __future__ import annotations

from typing import Any

from diycloud.cli.output import colour, facts, printable, table


def app(found: dict[str, Any]) -> str:
    return facts(
        [
            ("application", found["name"]),
            ("title", found["title"]),
            ("kind", "public: no secret" if found["public"] else "with a secret"),
            ("on", "yes" if found["enabled"] else "no: nobody can sign in at it"),
            ("trusted", "yes: people are not asked" if found["trusted"] else "no: people are asked"),
            ("PKCE", "needed" if found["pkce"] else "not needed"),
            ("refresh tokens", _refresh(found)),
            ("may ask for", ", ".join(found["scopes"])),
            ("sends people back to", ", ".join(found["redirect_uris"])),
            ("after signing out to", ", ".join(found["logout_uris"])),
            ("created", found["created_at"]),
        ]
    )


def _refresh(found: dict[str, Any]) -> str:
    if "offline_access" in found["scopes"]:
        return "where it asks for offline_access"
    return "while people are signed in" if found["refresh"] else "none"


def _setup(name: str, found: dict[str, Any]) -> str:
    names = {"issuer": "issuer", "authorization": "authorize URL", "token": "token URL", "userinfo": "userinfo URL"}
    names |= {"jwks": "keys (JWKS)", "logout": "logout URL", "discovery": "all of it (discovery)"}
    return facts([("client id", name), *((text, found[key]) for key, text in names.items())])


def detail(result: dict[str, Any]) -> str:
    return f"{app(result['app'])}\n\nSet it up with:\n{_setup(result['app']['name'], result['endpoints'])}"


def issued(result: dict[str, Any]) -> str:
    text = detail(result)
    if result["secret"]:
        text += f"\n\nClient secret: {colour(result['secret'], 'bold')}\nIt is shown only now."
    return text


def changed(result: dict[str, Any]) -> str:
    return app(result["app"])


def listed(result: dict[str, Any]) -> str:
    if not result["apps"]:
        return "No application signs people in through the platform."
    rows = [
        (a["name"], a["title"], "public" if a["public"] else "secret", "yes" if a["trusted"] else "no",
         "yes" if a["enabled"] else "no", " ".join(a["scopes"]))
        for a in result["apps"]
    ]  # fmt: skip
    return table(("APPLICATION", "TITLE", "KIND", "TRUSTED", "ON", "MAY ASK FOR"), rows)


def rotated(result: dict[str, Any]) -> str:
    kept = ", ".join(map(printable, result["kept"])) or "none"
    return facts([("signs from now on", result["kid"]), ("still checked with", kept)])


def own(result: dict[str, Any]) -> str:
    if not result["apps"]:
        return "No application knows you."
    rows = [
        (a["name"], a["title"], "" if a["trusted"] else a["allowed_at"], a["sign_ins"], " ".join(a["scopes"]))
        for a in result["apps"]
    ]
    return table(("APPLICATION", "TITLE", "ALLOWED", "SIGN-INS", "KNOWS"), rows, right=("SIGN-INS",))
