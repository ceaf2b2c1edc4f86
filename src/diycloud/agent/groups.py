"""What changes groups: ensure, preview, remove; and who of the accounts is in them.

As for accounts, each step is idempotent, and the agent's file is written first and cleared last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from diycloud.agent.protocol import GroupRemains, Outcome
from diycloud.agent.state import Agent, Caller, log
from diycloud.errors import Conflict, DiyCloudError, InvalidInput, PermissionDenied
from diycloud.host import groups, homes
from diycloud.host.accounts import HostAccounts

MAX_TEXT = 200
"""Letters of a message in an answer about many groups, so that all of them fit a frame."""
MAX_NAMED = 5


def ensure_groups(agent: Agent, caller: Caller, names: Sequence[str]) -> list[Outcome]:
    """Have groups and their shared folders. One that fails does not hold up the others.

    Raises InvalidInput for a name given twice, Unavailable if the agent's file is broken or the range of GIDs used up.
    """
    agent.groups.require_sound()
    if len(set(names)) != len(names):
        raise InvalidInput("groups: a name is there twice.")
    host = HostAccounts(agent.system)
    refused: dict[str, Outcome] = {}
    for name in names:
        try:
            _check(agent, host, name)
        except DiyCloudError as error:
            refused[name] = _refusal(name, agent.groups.get(name), error)
    new = [name for name in names if name not in refused and agent.groups.get(name) is None]
    if new:
        agent.groups.put(dict(zip(new, agent.groups.free_numbers(len(new), host.ids), strict=True)))
    outcomes = [refused.get(name) or _ensure(agent, host, name, new=name in new) for name in names]
    _take_back(agent, [outcome.name for outcome in outcomes if outcome.code and outcome.name in new])
    for outcome in outcomes:
        if outcome.code:
            log.warning("group refused", caller=caller.uid, name=outcome.name, gid=outcome.uid, reason=outcome.message)
        elif outcome.changed:
            log.info("group ensured", caller=caller.uid, name=outcome.name, gid=outcome.uid)
    return outcomes


def _check(agent: Agent, host: HostAccounts, name: str) -> None:
    """Check a group against both of the agent's files and the live host."""
    gid = agent.groups.get(name)
    if gid is not None and host.has_group(name):
        if host.group_id(name) != gid:
            raise Conflict(f"{name} has another number than {gid} on the host.", "Someone changed it by hand.")
        return
    if agent.registry.get(name) is not None:
        raise Conflict(f"{name} is an account of the platform.", "Choose another name.")
    groups.check_new_group(host, name)
    if gid is None and groups.check_folder(agent.settings.shared, name):
        raise Conflict(f"{agent.settings.shared}/{name} exists already.", "Move it away, or choose another name.")


def _ensure(agent: Agent, host: HostAccounts, name: str, *, new: bool) -> Outcome:
    gid = agent.groups.gids[name]
    made = not host.has_group(name)
    try:
        if made:
            groups.add_group(agent.system, name, gid)
        groups.ensure_base(agent.system, agent.settings.shared)
        changed, warning = groups.ensure_folder(agent.system, agent.settings.shared, name, gid)
    except DiyCloudError as error:
        return _refusal(name, None if new else gid, error)
    return Outcome(name, gid, changed=made or changed, made=made, warning=warning)


def _take_back(agent: Agent, failed: Sequence[str]) -> None:
    """Undo creates that the host refused. What cannot be undone now stays, and the next request goes on from there."""
    for name in reversed(failed):
        gid = agent.groups.gids[name]
        try:
            _remove_from_host(agent, name, gid)
            agent.groups.cancel(name)
        except DiyCloudError as error:
            log.error("group not taken back", name=name, gid=gid, reason=str(error))


def _refusal(name: str, gid: int | None, error: DiyCloudError) -> Outcome:
    return Outcome(name, gid, code=error.code, message=str(error)[:MAX_TEXT])


def preview_group(agent: Agent, name: str) -> GroupRemains:
    """Tell what removing a group would remove. Raises PermissionDenied for one that is not managed."""
    gid = agent.groups.get(name)
    if gid is None:
        raise PermissionDenied(f"{name} is not a group of the platform.", "It is left alone.")
    size = homes.measure_home(agent.settings.shared, name)
    there = HostAccounts(agent.system).group_id(name) == gid
    members = groups.read_memberships(agent.system, {name}) if there else ()
    folder = f"{agent.settings.shared}/{name}"
    return GroupRemains(
        name, gid if there else None, folder, size.bytes, size.files, len(members), more=not size.whole
    )  # fmt: skip


def remove_group(agent: Agent, caller: Caller, name: str) -> Outcome:
    """Put the folder in the trash, remove the group. Safe to repeat after a crash at any step.

    A group that is not managed is left alone, which is a success: nothing of the platform's is there.
    """
    agent.groups.require_sound()
    gid = agent.groups.get(name)
    if gid is None:
        return Outcome(name)
    host = HostAccounts(agent.system)
    if host.has_group(name) and host.group_id(name) != gid:
        raise Conflict(f"{name} has another number than {gid} on the host.", "Someone changed it by hand.")
    agent.check_purge_rate(caller)
    _remove_from_host(agent, name, gid)
    agent.groups.forget([name])
    agent.count_purge()
    log.info("group removed", caller=caller.uid, name=name, gid=gid)
    return Outcome(name, gid, changed=True)


def _remove_from_host(agent: Agent, name: str, gid: int) -> None:
    groups.trash_folder(agent.system, agent.settings.shared, name, gid, agent.clock())
    groups.remove_group(agent.system, name, gid)


def set_memberships(
    agent: Agent, host: HostAccounts, wanted: Mapping[str, Collection[str]]
) -> tuple[set[str], dict[str, str]]:
    """Make accounts' membership in the managed groups equal to the wishes, by one write.

    wanted: account → groups. Returns the accounts that changed, and of others the warning that some group was left out.
    Raises HostError if the account files cannot be written.
    """
    managed = agent.open_groups(host)
    changed = groups.set_memberships(agent.system, managed, wanted)
    left_out = {name: [group for group in theirs if group not in managed] for name, theirs in wanted.items()}
    return changed, {name: _warning(missing) for name, missing in left_out.items() if missing}


def _warning(missing: Sequence[str]) -> str:
    more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    return f"Not a group of the platform on the host: {', '.join(missing[:MAX_NAMED])}{more}."


def memberships(agent: Agent, host: HostAccounts) -> tuple[set[str], Mapping[str, frozenset[str]]]:
    """Return the managed groups, and for each account that is in any of them, which."""
    managed = agent.open_groups(host)
    return managed, groups.read_memberships(agent.system, managed)
