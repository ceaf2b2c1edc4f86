"""Taking accounts of the host's under management as they are, on root's word.

An adopted account is a line in the agent's file and a slice with limits; its home, its modes and its line in /etc/passwd
stay as they are. So only an account can be adopted that already is what the agent would have made of it.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import get_args

from diycloud.agent import protocol
from diycloud.agent.framing import parts
from diycloud.agent.protocol import MAX_FOUND, Adoptable, Outcome, State, Wish
from diycloud.agent.registry import Entry
from diycloud.agent.state import Agent, Caller, failure, log
from diycloud.errors import Conflict, DiyCloudError, HostError, InvalidInput, PermissionDenied
from diycloud.host import accounts, cgroup
from diycloud.host.accounts import HostAccounts, PosixAccount
from diycloud.host.names import is_reserved
from diycloud.host.slices import Limits

UID_MIN = 1000
"""Below are the system's own accounts (login.defs(5), UID_MIN)."""
MIN_LEFT = 10
"""UIDs that must be left for new users. The next one is above every adopted one of their range."""
MAX_TEXT = 200
"""Letters of a text in the list."""


def find_adoptable(agent: Agent, after: str) -> list[Adoptable]:
    """Return the host's accounts of people that are not managed, by name, each with what is in the way of adopting it."""
    agent.registry.require_sound()
    host = HostAccounts(agent.system)
    people = host.in_range(UID_MIN, agent.settings.uid_max)
    candidates = [
        account
        for account in people
        if account.name > after
        and agent.registry.get(account.name) is None
        and account.name != agent.settings.server_user
    ]
    candidates.sort(key=lambda account: account.name)
    shared = _shared(people)
    return next(parts((_looked_at(agent, host, account, shared) for account in candidates[:MAX_FOUND]), MAX_FOUND))


def _looked_at(agent: Agent, host: HostAccounts, account: PosixAccount, shared: Collection[int]) -> Adoptable:
    try:
        _check(agent, host, account, shared)
        problem = ""
    except DiyCloudError as error:
        problem = str(error)
    texts = (text[:MAX_TEXT] for text in (account.shell, account.full_name, problem))
    return Adoptable(account.name[:256], account.uid, *texts)


def _shared(people: Iterable[PosixAccount]) -> set[int]:
    """Return the numbers that more than one name has."""
    counts = Counter(account.uid for account in people)
    return {uid for uid, count in counts.items() if count > 1}


def adopt_accounts(agent: Agent, caller: Caller, wishes: Sequence[Wish]) -> list[Outcome]:
    """Take accounts under management, with slices and limits. One that fails does not hold up the others.

    Repeatable: one that is managed already is told by its UID. Raises InvalidInput for a name given twice, Unavailable
    if the agent's file is broken.
    """
    agent.registry.require_sound()
    if len({wish.name for wish in wishes}) != len(wishes):
        raise InvalidInput("wishes: a name is there twice.")
    outcomes = []
    for wish in wishes:
        try:
            outcome = _adopt(agent, wish)
        except DiyCloudError as error:
            outcome = failure(wish.name, error)
            log.warning("adoption refused", caller=caller.uid, name=wish.name, reason=str(error))
        else:
            log.info("account adopted", caller=caller.uid, name=wish.name, uid=outcome.uid, warning=outcome.warning)
        outcomes.append(outcome)
    return outcomes


def _adopt(agent: Agent, wish: Wish) -> Outcome:
    host = HostAccounts(agent.system)
    account = host.get(wish.name)
    known = agent.registry.get(wish.name)
    if account is None:
        raise Conflict(f"There is no account {wish.name} on the host.", "`diycloud user create` makes one.")
    if known is not None:
        if known.uid != account.uid:
            raise Conflict(f"{wish.name} is managed as number {known.uid}, and is {account.uid} on the host.")
        return Outcome(wish.name, known.uid)
    _check(agent, host, account, _shared(host.in_range(account.uid, account.uid)))
    if (wish.full_name, wish.shell, wish.state) != (account.full_name, account.shell, State.ACTIVE):
        raise Conflict(f"{wish.name} was changed on the host meanwhile.", "Run the command again.")
    limits = agent.check_limits(wish.limits)
    _refuse_below_use(agent, wish.name, account.uid, limits)
    agent.registry.store([Entry.of(wish, account.uid)])
    agent.note_change(wish.name)
    if agent.slices is None:
        return Outcome(wish.name, account.uid, changed=True, warning=f"Limits are not in force: {agent.unsupported}")
    agent.slices.ensure(wish.name, account.uid, limits)
    warnings = (_take_in(agent, wish.name, account.uid), _beyond_hook(agent, account.uid))
    return Outcome(wish.name, account.uid, changed=True, warning=" ".join(filter(None, warnings)))


def _refuse_below_use(agent: Agent, name: str, uid: int, limits: Limits) -> None:
    """Refuse a memory limit that would have the kernel kill: with systemd their sessions are in the slice already."""
    try:
        cgroup.refuse_below_use(name, agent.slices.read(name, uid) if agent.slices is not None else None, limits)
    except HostError as error:
        hint = f"End some of it, or `diycloud limits set {name} --memory …`; then adopt again."
        raise HostError(error.message, hint) from error


def _beyond_hook(agent: Agent, uid: int) -> str:
    """Return a warning if the sign-in hook passes an account by; so that people of the host's own never depend on it."""
    if uid >= agent.settings.uid_min:
        return ""
    assert agent.slices is not None
    which = "sessions of su and cron" if agent.slices.kind == "systemd" else "new sessions"
    return (
        f"Its number is below agent.uid_min, so {which} are outside the limits, and PAM asks it for neither networks nor "
        f"codes: set agent.uid_min to {uid} or lower, "
        "then diycloud install."
    )


def _take_in(agent: Agent, name: str, uid: int) -> str:
    """Move what runs already into the slice. Returns a warning if something stays outside."""
    assert agent.slices is not None
    inside = set(agent.slices.processes(name, uid))
    agent.slices.take_in(name, uid, [pid for pid in accounts.processes_of(uid) if pid not in inside])
    inside = set(agent.slices.processes(name, uid))
    left = [pid for pid in accounts.processes_of(uid) if pid not in inside]
    if not left:
        return ""
    return f"{len(left)} of {name}'s processes run outside the limits until they end."


def _check(agent: Agent, host: HostAccounts, account: PosixAccount, shared: Collection[int]) -> None:
    """Raise the reason why an account cannot be adopted. shared: numbers that more than one name has."""
    name, uid, settings = account.name, account.uid, agent.settings
    if not _fits(name, protocol.Name):
        raise InvalidInput("The name has other letters than a–z, 0–9, _ and -, or is too long.")
    if is_reserved(name):
        raise PermissionDenied(f"The name {name} is reserved for the system.")
    if not UID_MIN <= uid <= settings.uid_max:
        raise InvalidInput(f"The number {uid} is not in {UID_MIN}–{settings.uid_max}.", "Raise agent.uid_max.")
    if uid in shared:
        raise Conflict(f"The number {uid} has another name too.", "Two names of one number cannot be told apart.")
    if any(entry.uid == uid for entry in agent.registry.entries.values()):
        raise Conflict(f"The number {uid} is managed under another name.")
    if uid >= agent.registry.next_number and settings.uid_max - uid < MIN_LEFT:
        raise Conflict(f"Above {uid} too few numbers are left for new users.", "Raise agent.uid_max.")
    accounts.check_ordinary(host, account, allowed_groups=agent.allowed_groups(host))
    accounts.check_shell(host, account.shell)
    if not _fits(account.full_name, protocol.Gecos) or not _fits(account.shell, protocol.Shell):
        raise InvalidInput("Its full name or shell is too long, or has letters that cannot be kept.")
    if not account.open:
        raise Conflict("It is locked.", f"Open it first: usermod -U {name}.")
    _check_home(settings.home, account)


def _check_home(base: str, account: PosixAccount) -> None:
    if account.home != f"{base}/{account.name}":
        raise Conflict(f"Its home is {account.home}.", f"Move it first: usermod -m -d {base}/{account.name}.")
    try:
        info = os.lstat(account.home)
    except FileNotFoundError:
        raise Conflict(f"It has no home: {account.home} is missing.", f"mkhomedir_helper {account.name}") from None
    if not stat.S_ISDIR(info.st_mode):
        raise Conflict(f"{account.home} is no directory.", "A link in the home's place is not followed.")
    if info.st_uid != account.uid:
        raise Conflict(f"{account.home} belongs to number {info.st_uid}, not to {account.uid}.")


def _fits(text: str, kind: object) -> bool:
    return re.match(get_args(kind)[1].pattern, text) is not None
