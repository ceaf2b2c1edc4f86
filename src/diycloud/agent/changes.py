"""What changes accounts: ensure, purge. Each step is idempotent; the agent's file is written first and cleared last.

A crash between two steps is healed by the same call made again, or by reconcile: the line in the file says what was
wanted, and every step looks before it acts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diycloud.agent import groups, sign_in, sudo
from diycloud.agent.protocol import LIFE, Account, Outcome, PurgeAccount, State
from diycloud.agent.registry import Entry
from diycloud.agent.state import Agent, Caller, failure, log
from diycloud.errors import Conflict, DiyCloudError, HostError, InvalidInput, PermissionDenied, Unsupported
from diycloud.host import accounts, homes, keys, password_fields
from diycloud.host.accounts import HostAccounts, PosixAccount
from diycloud.host.pam_files import NOTHING
from diycloud.system.contract import Owner


@dataclass(slots=True)
class _Step:
    """One account on its way through a batch."""

    wanted: Account
    entry: Entry
    before: Entry | None
    host: PosixAccount | None
    changed: bool = False
    made: bool = False
    warning: str = ""
    error: DiyCloudError | None = None

    @property
    def name(self) -> str:
        return self.entry.name


def ensure_accounts(agent: Agent, caller: Caller, wanted: Sequence[Account]) -> list[Outcome]:
    """Make accounts, homes, slices and limits equal to the wishes. One that fails does not hold up the others.

    Raises InvalidInput for a name given twice, Unavailable if the agent's file is broken: then nothing was changed.
    """
    agent.registry.require_sound()
    if len({account.wish.name for account in wanted}) != len(wanted):
        raise InvalidInput("accounts: a name is there twice.")
    host = HostAccounts(agent.system)
    steps, refused = _plan(agent, caller, wanted, host)
    agent.registry.store(step.entry for step in steps)
    for step in steps:
        step.changed = step.entry != step.before
    # Limits come before the account, so that no process of the user's ever runs without them.
    _limit(agent, steps)
    _demand(agent, caller, steps)
    _each(steps, lambda step: _ensure_account(agent, host, step))
    _set_groups(agent, host, steps)
    _set_passwords(agent, steps)
    _each(steps, lambda step: _ensure_state(agent, step))
    _each(steps, lambda step: _ensure_keys(agent, caller, step))
    _take_back(agent, [step for step in steps if step.error is not None and step.before is None])
    outcomes = refused | {step.name: _outcome(step) for step in steps}
    for outcome in outcomes.values():
        if outcome.code:
            log.warning("account refused", caller=caller.uid, **_shown(outcome))
        elif outcome.changed:
            agent.note_change(outcome.name)
            log.info("account ensured", caller=caller.uid, **_shown(outcome))
    return [outcomes[account.wish.name] for account in wanted]


def _plan(
    agent: Agent, caller: Caller, wanted: Sequence[Account], host: HostAccounts
) -> tuple[list[_Step], dict[str, Outcome]]:
    """Check every account against the agent's file and the live host; give new ones a UID."""
    steps: list[_Step] = []
    refused: dict[str, Outcome] = {}
    for account in wanted:
        name = account.wish.name
        before, live = agent.registry.get(name), None
        try:
            if before is None:
                _check_new(agent, account, host)
            else:
                live = _check_known(agent, caller, before, account, host)
            accounts.check_shell(host, account.wish.shell)
            agent.check_limits(account.wish.limits)
            steps.append(_Step(account, Entry.of(account.wish, before.uid if before else 0), before, live))
        except DiyCloudError as error:
            ours = before is not None and not _is_anothers(agent, before, account)
            refused[name] = failure(name, error, before.uid if before and ours else None)
    new = [step for step in steps if step.before is None]
    uids = agent.registry.free_numbers(len(new), host.ids) if new else []
    for step, uid in zip(new, uids, strict=True):
        step.entry = step.entry._replace(uid=uid)
    return steps, refused


def _check_new(agent: Agent, account: Account, host: HostAccounts) -> None:
    name = account.wish.name
    if host.get(name) is not None or host.has_group(name):
        what = "an account" if host.get(name) is not None else "a group"
        raise Conflict(f"{name} exists on the host as {what}.", "Choose another name.")
    if not account.create:
        raise PermissionDenied(f"{name} is not an account of the platform.", "Only managed accounts can be changed.")
    if agent.groups.get(name) is not None:
        raise Conflict(f"{name} is a group of the platform.", "Choose another name.")
    accounts.check_new_name(host, name, allowed_groups=agent.allowed_groups(host))
    if agent.was_purged(name, account.wish.generation):
        raise Conflict(f"{name} was purged after this wish was made.")
    homes.check_home(agent.settings.home, name, -1)


def _is_anothers(agent: Agent, before: Entry, account: Account) -> bool:
    """Tell whether a create would hand an account to a new user of its name: a row was deleted by hand."""
    return account.create and (
        before.name in agent.orphans or account.wish.generation // LIFE != before.generation // LIFE
    )


def _check_known(
    agent: Agent, caller: Caller, before: Entry, account: Account, host: HostAccounts
) -> PosixAccount | None:
    if account.wish.generation < before.generation:
        raise Conflict(
            f"{before.name}: generation {account.wish.generation} is older than {before.generation}.",
            "The wish was overtaken; read it again.",
        )
    if _is_anothers(agent, before, account):
        raise Conflict(
            f"{before.name} is on the host without a user: its home belongs to someone else.",
            f"Restore the user's row with its uid, {before.uid}, or purge the account as root.",
        )
    live = agent.check_live(caller, before, host, harmless=True)
    if live is not None and not caller.is_root and before.name in agent.administrators.names:
        _check_harmless(account, live)
    if live is None:
        accounts.check_new_name(host, before.name, allowed_groups=agent.allowed_groups(host))
    return live


def _check_harmless(account: Account, live: PosixAccount) -> None:
    """Refuse what would give the caller a way into an administrator's account: all but limits, groups and locking."""
    wish = account.wish
    opened = wish.state is State.ACTIVE and not live.open
    if account.shadow is not None or opened or (wish.full_name, wish.shell) != (live.full_name, live.shell):
        what = "open" if opened else "change"
        raise PermissionDenied(
            f"{wish.name} has sudo, so only root may {what} the account.",
            f"As root: diycloud user sudo {wish.name} --revoke; afterwards it can be granted again.",
        )


def _each(steps: Sequence[_Step], act: Callable[[_Step], bool]) -> None:
    for step in steps:
        if step.error is None:
            try:
                step.changed |= act(step)
            except DiyCloudError as error:
                step.error = error


def _limit(agent: Agent, steps: Sequence[_Step]) -> None:
    slices = agent.slices
    if slices is None:
        for step in steps:
            step.warning = f"Limits are not in force: {agent.unsupported}"
        return
    try:
        done = slices.ensure_many([(step.name, step.entry.uid, step.entry.limits) for step in steps])
    except (HostError, Unsupported):
        _each(steps, lambda step: _limit_one(agent, step))  # the batch does not say whose fault it is
        return
    for step, changed in zip(steps, done, strict=True):
        step.changed |= changed
        _follow(agent, step)


def _limit_one(agent: Agent, step: _Step) -> bool:
    if agent.slices is None:
        return False
    try:
        changed = agent.slices.ensure(step.name, step.entry.uid, step.entry.limits)
    except Unsupported as error:
        step.warning = f"Limits are not in force: {error}"
        return False
    _follow(agent, step)
    return changed


def _follow(agent: Agent, step: _Step) -> None:
    """Have what runs within a bound of its own follow the slice's limits."""
    if agent.notebooks is not None:
        agent.notebooks.follow(step.name)


def _demand(agent: Agent, caller: Caller, steps: Sequence[_Step]) -> None:
    """Have PAM ask what is wished; it does so before the account's password and keys open anything."""
    changed, refused = sign_in.ensure_demands(agent, caller, [step.wanted.wish for step in steps if step.error is None])
    for step in steps:
        step.changed |= step.name in changed
        step.error = step.error or refused.get(step.name)


def _ensure_account(agent: Agent, host: HostAccounts, step: _Step) -> bool:
    wish, uid = step.wanted.wish, step.entry.uid
    if step.host is None:
        step.made = True
        accounts.add_account(
            agent.system, host, step.name, uid, full_name=wish.full_name, shell=wish.shell,
            home=agent.home(step.name), locked=wish.state is State.LOCKED,
        )  # fmt: skip
        step.host = PosixAccount(
            step.name, uid, uid, wish.full_name, agent.home(step.name), wish.shell,
            accounts.NO_PASSWORD, accounts.LOCK_DAY if wish.state is State.LOCKED else "",
        )  # fmt: skip
    return homes.ensure_home(agent.system, agent.settings.home, step.name, Owner(uid, step.host.gid)) or step.made


def _set_groups(agent: Agent, host: HostAccounts, steps: Sequence[_Step]) -> None:
    """Make the whole batch's membership in managed groups equal to the wishes, by one write."""
    joining = {step.name: step for step in steps if step.error is None}
    try:
        wanted = {name: step.wanted.wish.groups for name, step in joining.items()}
        changed, warnings = groups.set_memberships(agent, host, wanted)
        changed |= sign_in.set_codes_group(agent, host, {name: step.wanted.wish for name, step in joining.items()})
    except DiyCloudError as error:
        for step in joining.values():
            step.error = error
        return
    for name, step in joining.items():
        step.changed |= name in changed
        step.warning = " ".join(filter(None, (step.warning, warnings.get(name, ""))))


def _set_passwords(agent: Agent, steps: Sequence[_Step]) -> None:
    """Set the new passwords of the whole batch, and how long they are good, by one write.

    A locked account's hash is kept behind `!`.
    """
    able = {step.name: step for step in steps if step.error is None and step.host is not None}
    fields = {
        name: ("!" if step.entry.state is State.LOCKED else "") + step.wanted.shadow
        for name, step in able.items()
        if step.wanted.shadow is not None
    }
    hosts = {name: step.host for name, step in able.items() if step.host is not None}
    wishes = {name: step.wanted.wish for name, step in able.items()}
    changes = sign_in.password_changes(agent, hosts, wishes, fields)
    if not changes:
        return
    try:
        password_fields.change_passwords(agent.system, changes)
    except DiyCloudError as error:
        for name in changes:
            able[name].error = error
        return
    for name, change in changes.items():
        step = able[name]
        step.changed = True
        if step.host is not None and change.field is not None:
            step.host = step.host._replace(password=change.field)


def _ensure_state(agent: Agent, step: _Step) -> bool:
    wish = step.wanted.wish
    if step.host is None:
        return False
    return accounts.change_account(
        agent.system, step.host, locked=wish.state is State.LOCKED, shell=wish.shell, full_name=wish.full_name
    )


def _ensure_keys(agent: Agent, caller: Caller, step: _Step) -> bool:
    """Have the account opened by these keys and no others. An administrator's keys are changed for root only."""
    wanted = step.wanted
    if wanted.keys is None or step.host is None:
        return False
    if not caller.is_root and step.name in agent.administrators.names:
        text = keys.render_keys(wanted.keys, wanted.wish.networks)
        if text != (agent.system.read(agent.keys / step.name) or ""):
            raise PermissionDenied(
                f"{step.name} has sudo, so neither the account's SSH keys nor where they are good from can be changed.",
                f"As root: diycloud user sudo {step.name} --revoke; afterwards it can be granted again.",
            )
        return False
    return keys.ensure_keys(
        agent.system, agent.keys, step.name, step.host.gid, keys=wanted.keys, networks=wanted.wish.networks
    )


def _take_back(agent: Agent, failed: Sequence[_Step]) -> None:
    """Undo creates that the host refused, by the steps of a purge. What cannot be undone now stays for reconcile."""
    for step in failed:
        try:
            _remove(agent, step.entry)
        except DiyCloudError as error:
            log.error("create not taken back", name=step.name, uid=step.entry.uid, reason=str(error))


def _outcome(step: _Step) -> Outcome:
    if step.error is not None:
        return failure(step.name, step.error, step.entry.uid if step.before else None)
    return Outcome(step.name, step.entry.uid, changed=step.changed, warning=step.warning, made=step.made)


def _shown(outcome: Outcome) -> dict[str, object]:
    fields = {"name": outcome.name, "uid": outcome.uid, "code": outcome.code, "reason": outcome.message}
    return {key: value for key, value in (fields | {"warning": outcome.warning}).items() if value not in ("", None)}


def lock_account(agent: Agent, caller: Caller, name: str) -> bool:
    """Lock a managed account that nobody wishes for any more. True if it was open."""
    agent.registry.require_sound()
    entry = agent.entry(name)
    live = agent.check_live(caller, entry, HostAccounts(agent.system), harmless=True)
    changed = agent.registry.store([entry._replace(state=State.LOCKED)])
    if live is not None:
        changed |= accounts.change_account(agent.system, live, locked=True)
    if changed:
        log.warning("account locked", caller=caller.uid, name=name, uid=entry.uid, reason="no wish for it")
    return changed


def purge_account(agent: Agent, caller: Caller, message: PurgeAccount) -> Outcome:
    """End what runs, put the home in the trash, remove slice and account. Safe to repeat after a crash at any step."""
    agent.registry.require_sound()
    name = message.name
    entry = agent.registry.get(name)
    host = HostAccounts(agent.system)
    if entry is None:
        if host.get(name) is not None:
            raise PermissionDenied(f"{name} is not an account of the platform.", "Only managed accounts can be purged.")
        agent.note_purge(name, message.generation, removed=False)
        return Outcome(name)
    if message.generation < entry.generation:
        raise Conflict(f"{name}: generation {message.generation} is older than {entry.generation}.")
    live = agent.check_live(caller, entry, host)
    agent.check_purge_rate(caller)
    agent.registry.store([entry._replace(state=State.LOCKED, generation=message.generation)])
    if live is not None:
        accounts.change_account(agent.system, live, locked=True)
    sudo.revoke(agent, name)
    _remove(agent, entry)
    agent.note_purge(name, message.generation)
    log.info("account purged", caller=caller.uid, name=name, uid=entry.uid)
    return Outcome(name, entry.uid, changed=True)


def _remove(agent: Agent, entry: Entry) -> None:
    """Take an account off the host, its line last."""
    stop_workloads(agent, entry)
    homes.trash_home(agent.system, agent.settings.home, entry.name, entry.uid, agent.clock())
    accounts.remove_account(agent.system, entry.name, entry.uid)
    if agent.notebooks is not None:
        agent.notebooks.forget_user(entry.name, entry.uid)
    if agent.slices is not None:
        agent.slices.remove(entry.name, entry.uid)
    agent.system.remove(agent.keys / entry.name)
    agent.pam_files.ensure({entry.name: NOTHING})
    agent.passwords.forget([entry.name])
    agent.registry.forget([entry.name])
    agent.orphans.discard(entry.name)


def stop_workloads(agent: Agent, entry: Entry) -> int:
    """End everything of a user: what is in the slice (containers too), then what else runs under the UID."""
    if agent.notebooks is not None:
        agent.notebooks.interrupt(entry.name)
    ended = agent.slices.stop(entry.name, entry.uid) if agent.slices is not None else 0
    ended += accounts.stop_processes(agent.system, entry.uid)
    if agent.notebooks is not None:
        agent.notebooks.tidy(entry.name)
    return ended
