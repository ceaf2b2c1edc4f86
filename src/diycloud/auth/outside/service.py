"""Links between users here and people elsewhere, as administrators set them and as people end their own."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from diycloud.actions.dispatcher import Context
from diycloud.auth import proof
from diycloud.auth.ending import end_everything
from diycloud.auth.outside import actions, identities
from diycloud.auth.outside.actions import Identities, LinkIdentity, ListIdentities, UnlinkIdentity
from diycloud.config_sign_in import LDAP
from diycloud.errors import Conflict, FieldError, InvalidInput, NotFound, PermissionDenied
from diycloud.notebooks import eviction
from diycloud.users import service
from diycloud.users.adopting import NO_PASSWORD
from diycloud.users.models import Row


async def list_identities(ctx: Context, action: ListIdentities) -> Identities:
    return await _shown(ctx, await service.get(ctx.services, action.username))


async def _shown(ctx: Context, row: Row) -> Identities:
    found = await ctx.services.database.read(identities.of_user, row.id)
    theirs = ctx.services.settings.sign_in.ldap is not None and any(one.provider == LDAP for one in found)
    has_password = row.password_hash != NO_PASSWORD and not theirs
    return Identities(row.username, [actions.Identity(*one) for one in found], has_password)


async def link_identity(ctx: Context, action: LinkIdentity) -> Identities:
    """Link a user to somebody elsewhere: whoever that is can sign in as the user from then on.

    Raises PermissionDenied, InvalidInput, NotFound, Conflict; Unavailable if the directory does not answer.
    """
    services = ctx.services
    if ctx.bound is not None:  # whoever was linked to one of theirs would bring it the rights that they have there
        raise PermissionDenied("Only an administrator of all domains links people.", "Ask one.")
    row = await service.get(services, action.username)
    proof.require(ctx.actor)
    if row.sudo and not ctx.actor.is_root:
        raise Conflict(f"{row.username} has sudo, so only root links them.", "As root on the host.")
    if bool(action.subject) == bool(action.name_there):
        raise InvalidInput.of([FieldError("subject", "either this or name_there is needed")])
    subject = action.subject or await _subject_of(ctx, action)
    new = await ctx.write(identities.link_for_sure, row.id, action.provider, subject)
    ctx.changes = {action.provider: [None, subject]} if new else {}
    warnings: tuple[str, ...] = ()
    if services.settings.sign_in.rules_of(action.provider) is None:
        warnings = (f"There is no provider {action.provider} in the settings yet: the link waits for it.",)
    return msgspec.structs.replace(await _shown(ctx, row), warnings=warnings)


async def _subject_of(ctx: Context, action: LinkIdentity) -> str:
    if action.provider != LDAP:
        raise InvalidInput.of([FieldError("name_there", "only a directory can be asked by name; give the subject")])
    if ctx.services.outside is None:
        raise NotFound("No directory is asked here.", "Give the subject itself.")
    return str((await ctx.services.outside.find(action.name_there)).subject)


async def unlink_identity(ctx: Context, action: UnlinkIdentity) -> Identities:
    """Remove a user's link; what was begun with it ends. Raises NotFound, Conflict for one's only way in."""
    row = await service.get(ctx.services, action.username)
    proof.require(ctx.actor)
    own = ctx.actor.user_id == row.id
    if row.sudo and not own and not ctx.actor.is_root:
        raise Conflict(
            f"{row.username} has sudo, so only they themselves and root unlink them.", "As root on the host."
        )
    found = await ctx.services.database.read(identities.of_user, row.id)
    if own and row.password_hash == NO_PASSWORD and all(one.provider == action.provider for one in found):
        raise Conflict("This is your only way to sign in.", "Ask an administrator for a password first.")

    def store(connection: Connection) -> list[str]:
        gone = identities.unlink(connection, row.id, action.provider)
        if gone and not own:
            end_everything(connection, ctx.services, row.id)
        return gone

    subjects = await ctx.write(store)
    await eviction.carry_out(ctx.services, row.username)
    if not subjects:
        raise NotFound(
            f"{row.username} is not linked to {action.provider}.", "`diycloud user identities` shows the links."
        )
    ctx.changes = {action.provider: [", ".join(subjects), None]}
    return await _shown(ctx, row)
