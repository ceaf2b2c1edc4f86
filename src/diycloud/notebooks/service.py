"""What notebooks' actions do: the agent knows what runs, the hub what is about to, the database what was."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec.structs import replace

from diycloud.actions.dispatcher import Context
from diycloud.actions.services import Hub, Services
from diycloud.agent import protocol as wire
from diycloud.config import Settings
from diycloud.config_notebooks import NotebookSettings
from diycloud.errors import (
    Conflict,
    DiyCloudError,
    FieldError,
    HostError,
    InvalidInput,
    NotFound,
    Unavailable,
    Unsupported,
)
from diycloud.notebooks import eviction, repository
from diycloud.notebooks.actions import ListNotebooks, StartNotebook, StopNotebook
from diycloud.notebooks.hub import HubServer
from diycloud.notebooks.models import Activity, Notebooks, Profile, Server, Started, Stopped
from diycloud.units import format_size, parse_size
from diycloud.users import service
from diycloud.users.models import Row, Status

BASE = "/jupyter/user"
PENDING = {"spawn": "starting", "stop": "stopping"}
STOP_S = 30.0


def hub_of(services: Services) -> Hub:
    """Return the way to the hub. Raises Unsupported where notebooks are not set up."""
    if services.hub is None or not services.hub.is_set_up:
        raise Unsupported("Notebooks are not set up on this host.", "As root on the host: diycloud jupyter setup")
    return services.hub


def address(settings: Settings, username: str, server: str) -> str:
    """Return where a server is found, as a path where it is at the portal's address; the hub starts one that does not run."""
    base = f"{settings.notebooks_address}{BASE}/{username}/"
    return f"{base}{server}/" if server else base


def profiles(settings: NotebookSettings) -> tuple[Profile, ...]:
    """Return the sizes to choose from, the default first."""
    return tuple(
        Profile(name, found.title or name, found.cpu or None, parse_size(found.memory) if found.memory else None)
        for name, found in settings.offered.items()
    )


# -- list


async def list_notebooks(ctx: Context, action: ListNotebooks) -> Notebooks:
    """Return a user's servers. The last lines of one that failed may name files: they are its owner's and root's."""
    hub_of(ctx.services)
    found = await read(ctx.services, await service.get(ctx.services, action.username))
    if ctx.actor.is_root or (ctx.actor.name == found.username and ctx.actor.real is None):
        return found
    return replace(
        found,
        servers=tuple(replace(one, log=()) for one in found.servers),
        activity=tuple(replace(one, reason=one.reason.split("\n")[0]) for one in found.activity),
    )


async def read(services: Services, row: Row, *, ask_hub: bool = True) -> Notebooks:
    """Return a user's servers as they are now; what could not be asked is a warning.

    ask_hub: False for a page that must be there at once, with what is about to start or stop left out.
    """
    hub, settings = hub_of(services), services.settings
    warnings: tuple[str, ...] = ()
    running: dict[str, wire.Notebook] = {}
    planned: Mapping[str, HubServer] = {}
    try:
        found = await services.agent.call(wire.ReadNotebooks(name=row.username), list[wire.Notebook])
        running = {one.server: await _with_log(services, one) for one in found}
    except DiyCloudError as error:
        warnings += (f"What runs cannot be told: {error.message}",)
    try:
        planned = await hub.servers(row.username) if ask_hub else {}
    except DiyCloudError as error:
        warnings += (f"What is about to start or stop cannot be told: {error.message}",)
    lately = await services.database.read(repository.lately, row.id)
    last: dict[str, Activity] = {}
    for one in lately:
        last.setdefault(one.server_name, one)
    names = ["", *sorted({*running, *planned} - {""})]
    servers = tuple(
        _server(row, name, running.get(name), planned.get(name), last.get(name), settings) for name in names
    )
    more = max(0, settings.notebooks.named_servers - (len(names) - 1))
    return Notebooks(row.username, servers, profiles(settings.notebooks), more, lately, warnings)


async def _with_log(services: Services, found: wire.Notebook) -> wire.Notebook:
    """Return one that failed with its last lines, which an answer about many leaves out."""
    if found.state != "failed" or found.log:
        return found
    one = await services.agent.call(wire.ReadNotebooks(found.name, found.server), list[wire.Notebook])
    return one[0] if one else found


def _server(
    row: Row,
    name: str,
    now: wire.Notebook | None,
    planned: HubServer | None,
    last: Activity | None,
    settings: Settings,
) -> Server:
    state = now.state if now else "stopped"
    if planned and planned.pending in PENDING:
        state = PENDING[planned.pending]
    profile = (now.profile if now else "") or (planned.profile if planned else "") or (last.profile if last else "")
    reason = (
        ""
        if now is None or state in PENDING.values()
        else _reason(now, _memory_limit(row, profile, settings.notebooks))
    )
    log = now.log if now and state == "failed" else ()
    if now and state == "failed" and not now.memory_kill and last and last.outcome == "failed":
        # The hub knows more, such as that it did not answer in time; the last lines are the agent's.
        reason = last.reason.split("\n")[0] or reason
    if state == "stopped" and not (now and now.ended) and last and last.outcome == "failed":
        # The agent keeps nothing of one that did not come up: what the hub told, a sentence and the last lines.
        state, (reason, *lines) = "failed", last.reason.split("\n")
        log = tuple(lines)
    if now is None:
        return Server(name, state, address(settings, row.username, name), profile, reason=reason, log=log)
    return Server(
        name=name, state=state, address=address(settings, row.username, name), profile=profile,
        started_at=_moment(now.started), ended_at=_moment(now.ended), memory=now.memory, cpu_seconds=now.cpu_us / 1e6,
        tasks=now.tasks, reason=reason, log=log,
    )  # fmt: skip


def _memory_limit(row: Row, profile: str, settings: NotebookSettings) -> int:
    own = settings.profiles.get(profile)
    return min(row.allocation.memory, parse_size(own.memory)) if own and own.memory else row.allocation.memory


def _reason(found: wire.Notebook, limit: int) -> str:
    """Return why a server ended, or what was ended of one that runs."""
    if found.state == "running":
        if not found.memory_kills:
            return ""
        what = "A program in it was" if found.memory_kills == 1 else f"{found.memory_kills} programs in it were"
        return f"{what} ended for memory: the limit is {format_size(limit)}."
    if found.state != "failed":
        return ""
    if found.memory_kill:
        return f"It was ended for memory: the limit is {format_size(limit)}."
    code = found.exit_code
    if code is None:
        return "It ended by itself."
    if code < 0:
        try:
            return f"It was ended by {signal.Signals(-code).name}."
        except ValueError:
            return f"It was ended by the signal {-code}."
    return f"It ended by itself, with the status {code}."


def _moment(seconds: float) -> str | None:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}" if seconds else None


# -- start and stop


async def start_notebook(ctx: Context, action: StartNotebook) -> Started:
    """Have the hub start a server, which asks the agent. Raises what is in the way, in words for its user."""
    services, hub = ctx.services, hub_of(ctx.services)
    row = await service.get(services, action.username)
    _check(row, action, services.settings.notebooks)
    if warnings := await eviction.carry_out(services, row.username):
        raise Unavailable(warnings[0], "Try again in a moment.")
    ready = await hub.start(row.username, action.server_name, action.profile)
    ctx.changes = {
        "server": [None, action.server_name or "the first"],
        **({"profile": [None, action.profile]} if action.profile else {}),
    }
    services.notebook_changes.tell(row.username)
    state = "running" if ready else "starting"
    return Started(
        row.username, action.server_name, state, address(services.settings, row.username, action.server_name)
    )


def _check(row: Row, action: StartNotebook, settings: NotebookSettings) -> None:
    if row.portal_only:
        raise Conflict(f"{row.username} has no account on the host, so nothing can run there.", "Ask an administrator.")
    if row.status is not Status.ACTIVE or row.uid is None:
        raise Conflict(f"The account of {row.username} is {row.status}.", "Try again in a moment.")
    if action.profile and action.profile not in settings.offered:
        known = ", ".join(settings.offered) or "there are none"
        raise InvalidInput.of([FieldError("profile", f"is none of the profiles: {known}")])
    if action.server_name and not settings.named_servers:
        raise InvalidInput.of([FieldError("server_name", "must be empty: everybody has one server here")])


async def stop_notebook(ctx: Context, action: StopNotebook) -> Stopped:
    """Stop one server or all. The hub is told first, so that it does not take it for a failure; the agent then makes sure."""
    services, hub = ctx.services, hub_of(ctx.services)
    row = await service.get(services, action.username)
    names = [action.server_name]
    if action.everything:
        names = [one.name for one in (await read(services, row)).servers]
    warnings: tuple[str, ...] = ()
    who = ctx.actor.real or ctx.actor
    by, reason = ("", "owner") if who.name == row.username else (who.name, "administrator")
    for name in names:
        services.notebook_endings.note(row.username, name, by, reason)
        try:
            await hub.stop(row.username, name)
        except (Unavailable, HostError) as error:
            warnings = (f"The hub will notice later that it has ended: {error.message}",)
        try:
            await services.agent.call(wire.StopNotebook(row.username, name), wire.Notebook, deadline=STOP_S)
        except NotFound:
            continue
    services.notebook_changes.tell(row.username)
    ctx.changes = {"server": ["all" if action.everything else action.server_name or "the first", None]}
    return Stopped(row.username, action.server_name, warnings)
