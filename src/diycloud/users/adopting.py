"""What holds only on root's word: accounts of the host's that become users, and users who are administrators of the host.

The server records the wish; the agent acts on a message that root itself sends it (cli/rooted.py). So a server that was
taken over can write down what it likes, and nothing comes of it.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection

from diycloud.actions.dispatcher import Context
from diycloud.agent import protocol as wire
from diycloud.auth import old_passwords
from diycloud.auth.ending import end_everything
from diycloud.errors import Conflict, FieldError, InvalidInput, Unavailable
from diycloud.host.names import is_reserved
from diycloud.notebooks import eviction
from diycloud.users import placing, repository, service, shown
from diycloud.users.actions import AdoptUser, CreateUser, SetSudo
from diycloud.users.models import Changed, Row, Status

NO_PASSWORD = "PLACEHOLDER"  # noqa: S105  # it matches nothing (auth/passwords.py)


async def adopt_user(ctx: Context, action: AdoptUser) -> Changed:
    """Store an account's wish, pending, and ask the agent for it: it is there once root has told the agent to adopt it.

    Sent twice, before root's word and after it; what a crash left in between, the same again completes. Raises Conflict
    if the name is another user's.
    """
    services = ctx.services
    if is_reserved(action.username):
        raise InvalidInput.of([FieldError("username", f"{action.username} is a name of the system's")])
    row = await services.database.read(repository.by_name, action.username)
    if row is None:
        row = await _store(ctx, action)
    elif row.uid != action.uid or row.portal_only or row.status not in (Status.PENDING, Status.ACTIVE):
        raise Conflict(
            f"There is a user {action.username!r} already, {row.status}.", "Its row stands in the way: purge it first."
        )
    return await service.apply(ctx, row.id)


async def _store(ctx: Context, action: AdoptUser) -> Row:
    create = CreateUser(
        username=action.username, full_name=action.full_name or None, shell=action.shell, domain=action.domain,
        policy=action.policy, cpu=action.cpu, memory=action.memory, disk=action.disk, tasks=action.tasks, gpu=action.gpu,
    )  # fmt: skip
    where = await placing.place(ctx, create)
    allocation = placing.allocation_of(create, where.policy)
    await service.check_size(ctx.services, allocation)
    # The host has the password, and the portal learns it when an administrator sets one or its owner signs in by PAM.
    values = service.new_columns(create, where, NO_PASSWORD, None)
    values |= {"uid": action.uid, "shadow_set": 1, "must_change_password": 0}

    def store(connection: Connection) -> int:
        placing.check_name_free(connection, action.username)
        return repository.add(connection, values, allocation)

    user_id = await ctx.write(store)
    ctx.changes = {"uid": [None, action.uid]}
    return await service.by_id(ctx.services, user_id)


async def set_sudo(ctx: Context, action: SetSudo) -> Changed:
    """Write down that root made a user an administrator of the host, or no longer."""
    row = await service.get(ctx.services, action.username)
    if row.sudo != action.granted:
        ctx.changes = {"sudo": [row.sudo, action.granted]}
        await ctx.write(repository.change, row.id, {"sudo": int(action.granted)})
    return Changed(shown.view(await service.by_id(ctx.services, row.id)))


async def change_administrators_password(
    ctx: Context, row: Row, old: str, new: str, *, keep_tokens: bool = False
) -> None:
    """Change the password of a user with sudo by the old one, which the agent checks itself; the portal's hash follows.

    Raises Unauthenticated if the host's old password is another, Unavailable if the agent does not answer.
    """
    services = ctx.services
    hashed, shadow = await asyncio.gather(services.hasher.hash(new), service.shadow_hash(services, new))
    if shadow is None:
        raise Unavailable("The agent does not answer: a password changes on both sides or on none.", "Try again soon.")
    await services.agent.call(wire.ChangeOwnPassword(row.username, old, shadow), wire.Outcome)

    def store(connection: Connection) -> None:
        values = {"password_hash": hashed, "must_change_password": 0, "password_changed_at": repository.NOW}
        old_passwords.remember(connection, row, services.settings.server.password_history)
        repository.change(connection, row.id, values)
        end_everything(connection, services, row.id, keep_session=ctx.actor.session_id, keep_tokens=keep_tokens)

    await ctx.write(store)
    await eviction.carry_out(services, row.username)
