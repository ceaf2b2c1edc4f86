"""Who may say what to the agent, and what answers: one table.

A message that is not in the table is not answered to anyone. The kinds say where the work runs (agent/server.py):
CHANGE one at a time, STEPS the same with room between its steps, READ beside them, AT_ONCE on the event loop, HASH on the
low-priority threads, LONG on two threads of its own, NOTEBOOK on as many as notebook servers may be starting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

from diycloud import __version__
from diycloud.agent import adopt, archive, changes, groups, handover, sign_in, sudo
from diycloud.agent.notebook_start import check_person
from diycloud.agent.notebooks import Notebooks
from diycloud.agent.protocol import (
    Adoptable,
    AdoptAccounts,
    Archived,
    ArchiveHome,
    Capacity,
    ChangeOwnPassword,
    CheckLimits,
    ConfirmPassword,
    EmptyTrash,
    EndNotebooks,
    EnsureAccounts,
    EnsureGroups,
    FindAdoptable,
    GrantSudo,
    GroupPreview,
    GroupRemains,
    Handed,
    HandOver,
    HashPasswords,
    HostCapacity,
    IsPasswordForeign,
    ListTrash,
    Message,
    Notebook,
    Outcome,
    Ping,
    Pong,
    PurgeAccount,
    PurgePreview,
    ReadNotebooks,
    ReadUsage,
    Remains,
    RemoveGroup,
    SpendStep,
    StartNotebook,
    StopNotebook,
    StopWorkloads,
    Sync,
    SyncReport,
    Trashed,
    Usage,
    Verified,
    VerifyPassword,
)
from diycloud.agent.reconcile import reconcile
from diycloud.agent.state import MAX_LISTS, Agent, Caller, Role, Session, log
from diycloud.errors import Conflict, DiyCloudError, InvalidInput, PermissionDenied, Unavailable, Unsupported
from diycloud.host import accounts, homes, shadow
from diycloud.host.accounts import HostAccounts


class Kind(Enum):
    CHANGE = "change"
    STEPS = "steps"
    READ = "read"
    AT_ONCE = "at once"
    """What every sign-in asks, and looks into memory and one small file alone: a thread would cost as much again."""
    HASH = "hash"
    LONG = "long"
    NOTEBOOK = "notebook"


def _ping(agent: Agent, session: Session, message: Ping) -> Pong:
    problem = agent.registry.problem or agent.groups.problem or agent.administrators.problem
    return Pong(__version__, agent.clock() - agent.started, problem)


def _capacity(agent: Agent, session: Session, message: Capacity) -> HostCapacity:
    kind = agent.slices.kind if agent.slices is not None else ""
    return HostCapacity(agent.cores, agent.memory, kind, agent.unsupported or agent.registry.problem)


def _hash_passwords(agent: Agent, session: Session, message: HashPasswords) -> list[str]:
    method = shadow.read_method(agent.system)
    return [shadow.hash_password(password, method) for password in message.passwords]


def _ensure_accounts(agent: Agent, session: Session, message: EnsureAccounts) -> list[Outcome]:
    return changes.ensure_accounts(agent, session.caller, message.accounts)


def _check_limits(agent: Agent, session: Session, message: CheckLimits) -> Outcome:
    entry = agent.entry(message.name)
    limits = agent.check_limits(message.limits)
    now = agent.slices.read(entry.name, entry.uid) if agent.slices is not None else None
    if now is not None and limits.memory < now.memory:
        raise Conflict(
            f"{entry.name} uses {-(-now.memory >> 20)}M of memory now, more than {limits.memory >> 20}M.",
            "Stop some of their programs first, or choose a larger limit.",
        )
    warning = f"Limits are not in force: {agent.unsupported}" if agent.slices is None else ""
    return Outcome(entry.name, entry.uid, warning=warning)


def _stop_workloads(agent: Agent, session: Session, message: StopWorkloads) -> int:
    entry = agent.entry(message.name)
    agent.check_live(session.caller, entry, HostAccounts(agent.system), harmless=True)
    ended = changes.stop_workloads(agent, entry)
    log.info("workloads stopped", caller=session.caller.uid, name=entry.name, uid=entry.uid, processes=ended)
    return ended


def _purge_preview(agent: Agent, session: Session, message: PurgePreview) -> Remains:
    entry = agent.entry(message.name)
    size = homes.measure_home(agent.settings.home, entry.name)
    pids = set(accounts.processes_of(entry.uid))
    if agent.slices is not None:
        pids.update(agent.slices.processes(entry.name, entry.uid))
    home = agent.home(entry.name)
    return Remains(entry.name, entry.uid, home, size.bytes, size.files, len(pids), more=not size.whole)


def _purge_account(agent: Agent, session: Session, message: PurgeAccount) -> Outcome:
    return changes.purge_account(agent, session.caller, message)


def _hand_over(agent: Agent, session: Session, message: HandOver) -> Handed:
    return handover.hand_over(agent, session.caller, message.name, message.to)


def _archive_home(agent: Agent, session: Session, message: ArchiveHome) -> Archived:
    return archive.archive_home(agent, session.caller, message.name)


def _find_adoptable(agent: Agent, session: Session, message: FindAdoptable) -> list[Adoptable]:
    return adopt.find_adoptable(agent, message.after)


def _adopt_accounts(agent: Agent, session: Session, message: AdoptAccounts) -> list[Outcome]:
    return adopt.adopt_accounts(agent, session.caller, message.wishes)


def _grant_sudo(agent: Agent, session: Session, message: GrantSudo) -> Outcome:
    return sudo.grant_sudo(agent, session.caller, message)


def _change_own_password(agent: Agent, session: Session, message: ChangeOwnPassword) -> Outcome:
    return sudo.change_own_password(agent, session.caller, message)


def _is_password_foreign(agent: Agent, session: Session, message: IsPasswordForeign) -> bool:
    return sign_in.is_password_foreign(agent, message.name)


def _verify_password(agent: Agent, session: Session, message: VerifyPassword) -> Verified:
    return sign_in.verify_password(agent, session.caller, message)


def _confirm_password(agent: Agent, session: Session, message: ConfirmPassword) -> None:
    sign_in.confirm_password(agent, message)


def _spend_step(agent: Agent, session: Session, message: SpendStep) -> bool:
    return sign_in.spend_step(agent, message)


def _list_trash(agent: Agent, session: Session, message: ListTrash) -> list[Trashed]:
    return archive.list_trash(agent)


def _empty_trash(agent: Agent, session: Session, message: EmptyTrash) -> list[str]:
    return archive.remove_from_trash(agent, session.caller, message.folders)


def _ensure_groups(agent: Agent, session: Session, message: EnsureGroups) -> list[Outcome]:
    return groups.ensure_groups(agent, session.caller, message.groups)


def _group_preview(agent: Agent, session: Session, message: GroupPreview) -> GroupRemains:
    return groups.preview_group(agent, message.name)


def _remove_group(agent: Agent, session: Session, message: RemoveGroup) -> Outcome:
    return groups.remove_group(agent, session.caller, message.name)


def _read_usage(agent: Agent, session: Session, message: ReadUsage) -> list[Usage]:
    if agent.slices is None:
        raise Unsupported(f"There is nothing to read: {agent.unsupported}")
    found = []
    for name in message.names:
        entry = agent.registry.get(name)
        now = agent.slices.read(name, entry.uid) if entry is not None else None
        if now is not None:
            found.append(Usage(name, time.time(), now.cpu_us, now.memory, now.tasks, now.oom_kills, now.throttled_us))
    return found


def _notebooks(agent: Agent) -> Notebooks:
    if agent.notebooks is None:
        raise Unsupported("This agent keeps no notebook servers.")
    return agent.notebooks


def _start_notebook(agent: Agent, session: Session, message: StartNotebook) -> Notebook:
    check = partial(check_person, agent, session.caller, message.name)
    return _notebooks(agent).start(message, check, agent.stopping)


def _stop_notebook(agent: Agent, session: Session, message: StopNotebook) -> Notebook:
    entry = agent.registry.get(message.name)
    return _notebooks(agent).stop(message.name, message.server, entry.uid if entry is not None else None)


def _end_notebooks(agent: Agent, session: Session, message: EndNotebooks) -> int:
    return _notebooks(agent).end_all(message.name)


def _read_notebooks(agent: Agent, session: Session, message: ReadNotebooks) -> list[Notebook]:
    return _notebooks(agent).read(message)


def _sync(agent: Agent, session: Session, message: Sync) -> Generator[None, None, SyncReport | None]:
    uid = session.caller.uid
    if message.first:
        # One list for each caller, however many connections: a new one takes the place of one that was not finished.
        agent.gathering.setdefault(uid, session).parts = None
        agent.gathering[uid] = session
        session.parts, session.gathered = [], time.monotonic()
    if session.parts is None:
        raise InvalidInput("first: a wish list starts with its first part, and another was begun after it.")
    session.parts += message.part
    if len(session.parts) > agent.settings.uid_max - agent.settings.uid_min + 1:
        session.parts = None
        raise InvalidInput("part: there are more wishes than UIDs.")
    if not message.last:
        return None
    wishes, session.parts = session.parts, None
    if len({wish.name for wish in wishes}) != len(wishes):
        raise InvalidInput("part: a name is there twice.")
    if agent.reconciling[uid] >= MAX_LISTS:
        raise Unavailable("The wish lists before this one are still being applied.", "Try again in a minute.")
    agent.reconciling[uid] += 1
    try:
        return (yield from reconcile(agent, session.caller, wishes, session.gathered))
    finally:
        agent.reconciling[uid] -= 1


class Handler(NamedTuple):
    """What answers a message: act returns the answer (STEPS: a generator of it). callers: who may ask."""

    act: Callable[[Agent, Session, Any], object]
    kind: Kind
    callers: frozenset[Role]


_BOTH = frozenset({Role.ROOT, Role.SERVER})
_ROOT = frozenset({Role.ROOT})
_HUB = frozenset({Role.ROOT, Role.HUB})
_ALL = frozenset({Role.ROOT, Role.SERVER, Role.HUB})

TABLE: dict[type[Message], Handler] = {
    Ping: Handler(_ping, Kind.READ, _ALL),
    Capacity: Handler(_capacity, Kind.READ, _BOTH),
    HashPasswords: Handler(_hash_passwords, Kind.HASH, _BOTH),
    EnsureAccounts: Handler(_ensure_accounts, Kind.CHANGE, _BOTH),
    CheckLimits: Handler(_check_limits, Kind.READ, _BOTH),
    StopWorkloads: Handler(_stop_workloads, Kind.READ, _BOTH),
    PurgePreview: Handler(_purge_preview, Kind.READ, _BOTH),
    PurgeAccount: Handler(_purge_account, Kind.CHANGE, _BOTH),
    EnsureGroups: Handler(_ensure_groups, Kind.CHANGE, _BOTH),
    GroupPreview: Handler(_group_preview, Kind.READ, _BOTH),
    RemoveGroup: Handler(_remove_group, Kind.CHANGE, _BOTH),
    HandOver: Handler(_hand_over, Kind.LONG, _BOTH),
    ArchiveHome: Handler(_archive_home, Kind.LONG, _BOTH),
    FindAdoptable: Handler(_find_adoptable, Kind.READ, _ROOT),
    AdoptAccounts: Handler(_adopt_accounts, Kind.CHANGE, _ROOT),
    GrantSudo: Handler(_grant_sudo, Kind.CHANGE, _ROOT),
    ChangeOwnPassword: Handler(_change_own_password, Kind.CHANGE, _BOTH),
    IsPasswordForeign: Handler(_is_password_foreign, Kind.AT_ONCE, _BOTH),
    VerifyPassword: Handler(_verify_password, Kind.HASH, _BOTH),
    ConfirmPassword: Handler(_confirm_password, Kind.CHANGE, _BOTH),
    SpendStep: Handler(_spend_step, Kind.READ, _BOTH),
    ListTrash: Handler(_list_trash, Kind.READ, _ROOT),
    EmptyTrash: Handler(_empty_trash, Kind.LONG, _ROOT),
    ReadUsage: Handler(_read_usage, Kind.READ, _BOTH),
    StartNotebook: Handler(_start_notebook, Kind.NOTEBOOK, _HUB),
    StopNotebook: Handler(_stop_notebook, Kind.NOTEBOOK, _ALL),
    EndNotebooks: Handler(_end_notebooks, Kind.NOTEBOOK, _BOTH),
    ReadNotebooks: Handler(_read_notebooks, Kind.READ, _ALL),
    Sync: Handler(_sync, Kind.STEPS, _BOTH),
}


def handler_for(message: Message, caller: Caller) -> Handler:
    """Return what answers. Raises PermissionDenied if this caller may not ask that."""
    handler = TABLE.get(type(message))
    if handler is None or caller.role not in handler.callers:
        raise PermissionDenied(f"{caller.role} may not ask for {type(message).__name__}.")
    return handler


def log_refusal(session: Session, message: Message, error: DiyCloudError) -> None:
    """Note who was refused what. Messages may carry secrets, so only their kind and account are noted."""
    log.warning(
        "refused",
        caller=session.caller.uid,
        pid=session.caller.pid,
        message=type(message).__name__,
        name=getattr(message, "name", None),
        code=error.code,
        reason=error.message,
    )
