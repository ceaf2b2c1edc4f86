"""Make the host equal to the whole wish list; at start, limits only.

Nothing precious is removed: a managed account without a wish is locked and listed. If that would lock many at once,
something is wrong with the list (an old backup, an empty database): nothing is locked, and the report says so.

The list decides, not what was done on the host by hand: `usermod -L` is undone by the next one, and who is to be locked is
locked by `diycloud user disable`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from diycloud.agent import groups, sign_in, sudo
from diycloud.agent.changes import ensure_accounts, lock_account
from diycloud.agent.protocol import MAX_BATCH, Account, Outcome, State, SyncReport, Wish
from diycloud.agent.registry import DEFAULT_LIMITS, Entry
from diycloud.agent.state import Agent, Caller, failure, log
from diycloud.errors import DiyCloudError
from diycloud.host import homes
from diycloud.host.accounts import HostAccounts, PosixAccount
from diycloud.host.pam_files import NOTHING

MAX_LISTED = 240
"""Names in each list of a report, so that it fits a frame; the rest are counted in the log."""
MAX_PAGE = 65_536
"""Bytes: the kernel keeps a memory limit in whole pages, of 64 KiB at most (arm64, ppc64)."""
_NO_GROUPS: frozenset[str] = frozenset()
MAX_LOCKED_SHARE, MAX_LOCKED = 0.10, 3


def restore_limits(agent: Agent) -> Generator[None, None, int]:
    """Put every managed account's limits in force again after a boot. Creates and removes no account.

    In steps, so that 10,000 slices keep nobody waiting; who signs in meanwhile is put into theirs by the PAM hook. A
    broken file: every account in the UID range gets the default limits. Returns the number of slices changed.
    """
    changed = 0
    users = [(entry.name, entry.uid) for entry in agent.registry.entries.values()]
    if agent.registry.problem:
        log.error("registry broken", reason=agent.registry.problem)
        found = HostAccounts(agent.system).in_range(agent.settings.uid_min, agent.settings.uid_max)
        users = [(account.name, account.uid) for account in found]
    for start in range(0, len(users), MAX_BATCH):
        changed += _restore(agent, users[start : start + MAX_BATCH])
        yield
    return changed


def _restore(agent: Agent, users: list[tuple[str, int]]) -> int:
    """Restore one batch, by the file as it is by now: a change or purge may have come in between."""
    if agent.slices is None:
        return 0
    entries = agent.registry.entries
    if agent.registry.problem:
        wanted = [(name, uid, DEFAULT_LIMITS) for name, uid in users]
    else:
        wanted = [(name, uid, entries[name].limits) for name, uid in users if name in entries]
    try:
        return sum(agent.slices.ensure_many(wanted))
    except (DiyCloudError, OSError):
        pass  # the batch does not say whose fault it is
    changed = 0
    for name, uid, limits in wanted:
        try:
            changed += agent.slices.ensure(name, uid, limits)
        except (DiyCloudError, OSError) as error:
            log.error("limits not restored", name=name, uid=uid, reason=str(error))
    return changed


def reconcile(
    agent: Agent, caller: Caller, wishes: Sequence[Wish], gathered: float
) -> Generator[None, None, SyncReport]:
    """Apply a wish list in steps; between two of them other changes may come in.

    gathered: monotonic time when its first part came. Yields after each step, returns what was done.
    """
    agent.registry.require_sound()
    overtaken = [(wish.name, entry.generation) for wish in wishes if (entry := _newer(agent, wish))]
    agent.orphans -= {wish.name for wish in wishes}  # their rows are back
    work = _differences(agent, wishes, gathered)
    yield
    missing = {wish.name for wish in work if agent.registry.get(wish.name) is None}
    host = HostAccounts(agent.system)
    absent = {wish.name for wish in work if _get(host, wish.name) is None}
    created, mended, remade, failed = list[str](), list[str](), list[str](), list[Outcome]()
    for start in range(0, len(work), MAX_BATCH):
        batch = [wish for wish in work[start : start + MAX_BATCH] if not _overtaken(agent, wish)]
        for outcome in ensure_accounts(agent, caller, [Account(wish, create=True) for wish in batch]):
            if outcome.code:
                failed.append(outcome)
            elif outcome.changed:
                (created if outcome.name in missing else mended).append(outcome.name)
                if outcome.name in absent:
                    remade.append(outcome.name)
        yield
    agent.pam_files.mend()
    orphans, stopped = yield from _lock_orphans(agent, caller, {wish.name for wish in wishes}, gathered, failed)
    if created or mended or failed or stopped or overtaken:
        counts = {"created": len(created), "mended": len(mended), "failed": len(failed), "overtaken": len(overtaken)}
        log.info("reconciled", caller=caller.uid, stopped=stopped, **counts)
    return SyncReport(
        created=created[:MAX_LISTED],
        mended=mended[:MAX_LISTED],
        orphans=orphans[:MAX_LISTED],
        failed=failed[: MAX_LISTED // 5],
        stopped=stopped,
        remade=remade[:MAX_LISTED],
        overtaken=overtaken[:MAX_LISTED],
        foreign=sign_in.foreign_names(agent, HostAccounts(agent.system)),
    )


def _newer(agent: Agent, wish: Wish) -> Entry | None:
    """Return the line of a newer wish: one that came meanwhile, or of before the database was put back to a backup."""
    entry = agent.registry.get(wish.name)
    return entry if entry is not None and wish.generation < entry.generation else None


def _overtaken(agent: Agent, wish: Wish) -> bool:
    """Tell whether there is a newer wish, or a purge came while this one was on its way."""
    if agent.registry.get(wish.name) is None:
        return agent.was_purged(wish.name, wish.generation)
    return _newer(agent, wish) is not None


def _differences(agent: Agent, wishes: Sequence[Wish], gathered: float) -> list[Wish]:
    """Return the wishes that file or host are not equal to."""
    host = HostAccounts(agent.system)
    asked, coded = agent.pam_files.read(), sign_in.codes_group_members(agent, host)
    has_codes = bool(agent.codes_group(host))
    there = set(agent.system.list_dir(agent.settings.home))
    managed, joined = groups.memberships(agent, host)
    return [
        wish
        for wish in wishes
        if not _overtaken(agent, wish)
        and not (
            _is_recorded(agent.registry.get(wish.name), wish)
            and wish.name in there
            and _is_account(_get(host, wish.name), wish)
            and asked.get(wish.name, NOTHING) == sign_in.demands(wish)
            and (not has_codes or (wish.name in coded) == bool(wish.secret))
            and sign_in.is_password_as_wished(agent, _get(host, wish.name), wish)
            and joined.get(wish.name, _NO_GROUPS) == managed.intersection(wish.groups)
            and _is_limited(agent, agent.registry.entries[wish.name])
        )
    ]


def _get(host: HostAccounts, name: str) -> PosixAccount | None:
    try:
        return host.get(name)
    except DiyCloudError:
        return None  # ensure_accounts will say what is wrong with the line


def _is_recorded(entry: Entry | None, wish: Wish) -> bool:
    return entry is not None and entry == Entry.of(wish, entry.uid)


def _is_account(account: PosixAccount | None, wish: Wish) -> bool:
    if account is None or (account.full_name, account.shell) != (wish.full_name, wish.shell):
        return False
    if wish.state is State.LOCKED:
        return account.locked
    return account.open


def _is_limited(agent: Agent, entry: Entry) -> bool:
    if agent.slices is None:
        return True
    try:
        found = agent.slices.read_limits(entry.name, entry.uid)
    except DiyCloudError:
        return False
    if found is None or (found.cpu, found.tasks) != (entry.limits.cpu, entry.tasks):
        return False
    return 0 <= entry.memory - found.memory < MAX_PAGE


def _lock_orphans(
    agent: Agent, caller: Caller, wished: set[str], gathered: float, failed: list[Outcome]
) -> Generator[None, None, tuple[list[str], str]]:
    """Lock managed accounts without a wish, unless they are many. Returns the orphans and why none was locked."""
    host = HostAccounts(agent.system)
    there = set(agent.system.list_dir(agent.settings.home))
    orphans = [
        name
        for name in agent.registry.entries
        if name not in wished and not agent.changed_lately(name, before=gathered)
    ]
    # A line without account and home is a create that never came that far, or the end of a purge: nothing precious.
    empty = [name for name in orphans if _get(host, name) is None and name not in there]
    for name in empty:
        try:
            _forget(agent, agent.registry.entries[name])
        except DiyCloudError as error:
            failed.append(failure(name, error))  # the line stays, and with it the next try
    orphans = [name for name in orphans if name not in empty]
    agent.orphans = set(orphans)
    still_open = [name for name in orphans if agent.registry.entries[name].state is not State.LOCKED]
    if len(still_open) > max(MAX_LOCKED, MAX_LOCKED_SHARE * len(agent.registry.entries)):
        return orphans, (
            f"{len(still_open)} of {len(agent.registry.entries)} accounts are not in the list of users. "
            "That many at once are not locked: was an old backup restored? "
            "Put the rows back, or remove the accounts with userdel -r."
        )
    for name in still_open:
        try:
            lock_account(agent, caller, name)
        except DiyCloudError as error:
            failed.append(failure(name, error))
        yield
    return orphans, ""


def _forget(agent: Agent, entry: Entry) -> None:
    """Take away the rights and the slice of an account that is not there, then its line."""
    sudo.revoke(agent, entry.name)
    if agent.notebooks is not None:
        agent.notebooks.forget_user(entry.name, entry.uid)
    if agent.slices is not None:
        agent.slices.remove(entry.name, entry.uid)
    agent.registry.forget([entry.name])


def empty_trash(agent: Agent) -> list[str]:
    """Remove the purged homes and groups' folders whose time is over (agent.trash_hours).

    One that cannot be removed now holds up no other.
    """
    names = []
    due = agent.clock() - agent.settings.trash_hours * 3600
    bases = (agent.settings.home, agent.settings.shared)
    for path in [path for base in bases for path in homes.in_trash(agent.system, base, older_than=due)]:
        try:
            names += [path.name] if agent.system.remove_tree(path) else []
        except (DiyCloudError, OSError) as error:
            log.error("folder not removed", folder=str(path), reason=str(error))
    if names:
        log.info("trash emptied", folders=names)
    return names
