"""What the actions on applications do."""

from __future__ import annotations

from typing import Any

import msgspec

from diycloud.actions.dispatcher import Context
from diycloud.actions.services import Services
from diycloud.auth import proof
from diycloud.auth.oidc import clients, consents, grants
from diycloud.auth.oidc.actions import (
    CreateApp,
    ListApps,
    ListOwnApps,
    ModifyApp,
    RemoveApp,
    RotateKeys,
    RotateSecret,
    ShowApp,
    WithdrawApp,
)
from diycloud.auth.oidc.clients import Client
from diycloud.auth.oidc.keys import Keys
from diycloud.auth.oidc.models import AppChanged, AppDetail, AppIssued, AppList, Endpoints, KeysRotated, OwnApps
from diycloud.config import ServerSettings
from diycloud.errors import Conflict, FieldError, InvalidInput, NotFound

UNSET = msgspec.UNSET


def issuer(settings: ServerSettings) -> str:
    """Return the one name of this provider: the portal's address without the slash at its end."""
    return settings.address.rstrip("/")


def endpoints(settings: ServerSettings) -> Endpoints:
    """Return the addresses that applications are set up with."""
    base = issuer(settings)
    return Endpoints(
        issuer=base,
        discovery=f"{base}/.well-known/openid-configuration",
        authorization=f"{base}/oidc/authorize",
        token=f"{base}/oidc/token",
        userinfo=f"{base}/oidc/userinfo",
        jwks=f"{base}/oidc/jwks",
        logout=f"{base}/oidc/logout",
    )


async def get(services: Services, name: str) -> Client:
    """Return an application. Raises NotFound."""
    found = await services.database.read(clients.by_name, name)
    if found is None:
        raise NotFound(f"There is no application {name!r}.", "`diycloud app list` shows them.")
    return found


async def list_apps(ctx: Context, action: ListApps) -> AppList:
    return AppList(await ctx.services.database.read_long(clients.every))


async def show_app(ctx: Context, action: ShowApp) -> AppDetail:
    return AppDetail((await get(ctx.services, action.name)).app, endpoints(ctx.services.settings.server))


async def create_app(ctx: Context, action: CreateApp) -> AppIssued:
    """Add an application. Raises InvalidInput for an address that nobody may be sent to, Conflict for a name that is taken."""
    proof.require(ctx.actor)
    services = ctx.services
    values: dict[str, Any] = {
        name: getattr(action, name) for name in ("redirect_uris", "logout_uris", "scopes", "trusted", "pkce", "refresh")
    }
    values["title"] = action.title or action.name
    _check(values, public=action.public)
    if await services.database.read(clients.by_name, action.name):
        raise Conflict(f"name: there is an application {action.name!r} already.", "Choose another name.")
    secret = None if action.public else clients.new_secret()
    await ctx.write(clients.add, action.name, values, secret)
    app = (await get(services, action.name)).app
    return AppIssued(app, endpoints(services.settings.server), secret, _notes(values))


async def modify_app(ctx: Context, action: ModifyApp) -> AppChanged:
    proof.require(ctx.actor)
    found = await get(ctx.services, action.name)
    given = {n: v for n, v in msgspec.structs.asdict(action).items() if v is not UNSET and n != "name"}
    before = msgspec.structs.asdict(found.app)
    _check({**before, **given}, public=found.app.public)
    changed = {name: value for name, value in given.items() if before[name] != value}
    if changed:
        await ctx.write(clients.change, action.name, changed)
    if changed.get("enabled") is False:
        await ctx.write(grants.end_at, found.id)
    ctx.changes = {name: [_shown(before[name]), _shown(value)] for name, value in changed.items()}
    app = (await get(ctx.services, action.name)).app
    return AppChanged(app, _notes({**before, **given}))


def _shown(value: Any) -> Any:
    return " ".join(value) if isinstance(value, tuple) else value


def _check(values: dict[str, Any], *, public: bool) -> None:
    """Raise InvalidInput for what an application may not be."""
    errors = [
        FieldError(name, f"{uri[:80]} {problem}")
        for name in ("redirect_uris", "logout_uris")
        for uri in values[name]
        if (problem := clients.uri_problem(uri))
    ]
    if not values["redirect_uris"]:
        errors.append(FieldError("redirect_uris", "is needed: one address at least"))
    if public and not values["pkce"]:
        errors.append(FieldError("pkce", "stays on for an application without a secret"))
    if public and values["trusted"]:
        errors.append(FieldError("trusted", "is for applications with a secret: anybody could say to be this one"))
    if errors:
        raise InvalidInput.of(errors)


def _notes(values: dict[str, Any]) -> tuple[str, ...]:
    notes = []
    if not values["pkce"]:
        notes.append("Without PKCE a code that is stolen on its way can be used by others: only where it must be.")
    if "openid" not in values["scopes"]:
        notes.append("Without the scope openid it gets no ID token and nothing of userinfo.")
    return tuple(notes)


async def rotate_secret(ctx: Context, action: RotateSecret) -> AppIssued:
    """Give a new secret. Raises Conflict for an application that has none."""
    proof.require(ctx.actor)
    found = await get(ctx.services, action.name)
    if found.app.public:
        raise Conflict(f"{action.name} is public: it has no secret.", "Make another one that has.")
    secret = clients.new_secret()
    await ctx.write(clients.set_secret, action.name, secret)
    ctx.changes = {"secret": "(secret)"}
    app = (await get(ctx.services, action.name)).app
    return AppIssued(app, endpoints(ctx.services.settings.server), secret)


async def remove_app(ctx: Context, action: RemoveApp) -> None:
    await get(ctx.services, action.name)
    await ctx.write(clients.remove, action.name)


async def rotate_keys(ctx: Context, action: RotateKeys) -> KeysRotated:
    proof.require(ctx.actor)
    services = ctx.services
    keys = Keys(services.database, services.vault, services.settings.server.oidc_key_days)
    first, *rest = await keys.rotate()
    ctx.changes = {"kid": first}
    return KeysRotated(first, tuple(rest))


async def list_own_apps(ctx: Context, action: ListOwnApps) -> OwnApps:
    if ctx.actor.user_id is None:
        return OwnApps([])
    return OwnApps(await ctx.services.database.read(consents.of_user, ctx.actor.user_id))


async def withdraw_app(ctx: Context, action: WithdrawApp) -> None:
    """Forget what the actor allowed an application, and end what it was given."""
    found = await get(ctx.services, action.name)
    user_id = ctx.actor.user_id
    if user_id is None:
        raise Conflict(f"{ctx.actor.name} signs in nowhere.", "Sign in as a user.")
    await ctx.write(consents.withdraw, user_id, found.id)
    await ctx.write(grants.end_of_user, user_id, found.id)
