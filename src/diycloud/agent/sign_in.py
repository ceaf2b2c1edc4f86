"""What a user must show to get in by PAM, and whose word their password is (host/pam_files.py, agent/passwords.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diycloud.agent import passwords
from diycloud.agent.passwords import Known
from diycloud.agent.protocol import ConfirmPassword, SpendStep, Verified, VerifyPassword, Wish
from diycloud.agent.state import Agent, Caller, log
from diycloud.errors import DiyCloudError, PermissionDenied
from diycloud.host import password_fields, shadow
from diycloud.host.accounts import HostAccounts, PosixAccount, read_password_field
from diycloud.host.groups import read_memberships, set_memberships
from diycloud.host.pam_files import NOTHING, SERVICE, Demands
from diycloud.host.password_fields import Change

MAX_FOREIGN = 100
"""Names in one report; the next one begins with others."""


def demands(wish: Wish) -> Demands:
    return Demands(tuple(wish.networks), wish.secret, wish.uncoded)


def ensure_demands(agent: Agent, caller: Caller, wishes: Sequence[Wish]) -> tuple[set[str], dict[str, DiyCloudError]]:
    """Have PAM ask what the wishes say. Returns the names of those that changed, and what was refused.

    Of an administrator of the host the server may ask for more, never for less.
    """
    wanted = {wish.name: demands(wish) for wish in wishes}
    refused: dict[str, DiyCloudError] = {}
    if not caller.is_root and (administrators := wanted.keys() & agent.administrators.names):
        now = agent.pam_files.read()
        for name in administrators:
            if _asks_less(now.get(name, NOTHING), wanted[name]):
                refused[name] = PermissionDenied(
                    f"{name} has sudo, so neither the networks nor the second factor of the account can be loosened.",
                    f"As root: diycloud user sudo {name} --revoke; afterwards it can be granted again.",
                )
    for name in refused:
        del wanted[name]
    try:
        return agent.pam_files.ensure(wanted, used={wish.name: wish.last_step for wish in wishes}), refused
    except DiyCloudError as error:
        return set(), refused | dict.fromkeys(wanted, error)


def set_codes_group(agent: Agent, host: HostAccounts, wishes: Mapping[str, Wish]) -> set[str]:
    """Have sshd know who is asked for a code. Returns the names of those for whom that is new."""
    group = agent.codes_group(host)
    return set_memberships(agent.system, group, {name: group if wish.secret else () for name, wish in wishes.items()})


def codes_group_members(agent: Agent, host: HostAccounts) -> set[str]:
    """Return whom sshd takes for asked for a code."""
    return set(read_memberships(agent.system, agent.codes_group(host)))


def _asks_less(before: Demands, after: Demands) -> bool:
    return (
        (before.networks not in ((), after.networks))
        or (before.secret not in ("", after.secret))
        or (before.uncoded and not (after.uncoded or after.secret))
    )


def password_changes(
    agent: Agent, host: Mapping[str, PosixAccount], wishes: Mapping[str, Wish], fields: Mapping[str, str]
) -> dict[str, Change]:
    """Return what is to be written into /etc/shadow for some accounts, after noting whose word it is.

    fields: the new passwords of those that get one. A password that was changed on the host is its owner's own: that one
    need not be changed at the next sign-in. Noted before it is set: a crash in between is mended by the same wish again.
    """
    known = {
        name: Known(passwords.fingerprint(field), agent.passwords.get(name).days) for name, field in fields.items()
    }
    changes: dict[str, Change] = {}
    for name, wish in wishes.items():
        account, field = host[name], fields.get(name)
        field = field if field != account.password else None
        max_days = _max_days(agent, account)
        expired = _expires(agent, wish) and (field is not None or _is_to_expire(agent, account, fields.get(name)))
        if max_days is not None:
            days = agent.password_days
            known[name] = known.get(name, agent.passwords.get(name))._replace(days=days)
        if field is not None or expired or max_days is not None:
            changes[name] = Change(field, expired, max_days)
    agent.passwords.confirm(known)
    return changes


def _expires(agent: Agent, wish: Wish) -> bool:
    """Tell whether a password is for one time. Without our lines in PAM an expired one would hold up keys and cron jobs too."""
    return wish.must_change_password and agent.system.exists(SERVICE)


def _is_to_expire(agent: Agent, account: PosixAccount, set_again: str | None) -> bool:
    """Tell whether the server's password of an account is there and still good for more than one sign-in."""
    if account.changed == "0" or not passwords.is_password(account.password):
        return False
    return set_again is not None or not agent.passwords.is_foreign(account.name, account.password)


def _max_days(agent: Agent, account: PosixAccount) -> int | None:
    """Return the greatest age that an account's password must get, None if it has it, or somebody else's is none of ours."""
    if agent.password_days:
        return agent.password_days if account.max_days != str(agent.password_days) else None
    ours = agent.passwords.get(account.name).days
    return password_fields.read_usual_age(agent.system) if ours and account.max_days == str(ours) else None


def is_password_as_wished(agent: Agent, account: PosixAccount | None, wish: Wish) -> bool:
    """Tell whether an account's password is good for as long as the wish and the settings say."""
    if account is None:
        return True
    return not (_expires(agent, wish) and _is_to_expire(agent, account, None)) and _max_days(agent, account) is None


def foreign_names(agent: Agent, host: HostAccounts) -> list[str]:
    """Return managed accounts whose password the server does not know, MAX_FOREIGN at most, others at each call."""
    found = []
    for entry in agent.registry.entries.values():
        try:
            account = host.get(entry.name)
        except DiyCloudError:
            continue  # a broken line has its own report
        is_ours = account is not None and account.uid == entry.uid
        if account is not None and is_ours and agent.passwords.is_foreign(entry.name, account.password):
            found.append(entry.name)
    if len(found) <= MAX_FOREIGN:
        return found
    start = agent.next_foreign % len(found)
    agent.next_foreign = start + MAX_FOREIGN
    return (found[start:] + found)[:MAX_FOREIGN]


def is_password_foreign(agent: Agent, name: str) -> bool:
    """Tell whether the server does not know a managed account's password. Strangers ask too, by signing in as anybody:
    so every name takes the same way.
    """
    foreign = agent.passwords.is_foreign(name, read_password_field(agent.system, name))
    return agent.registry.get(name) is not None and foreign


def verify_password(agent: Agent, caller: Caller, message: VerifyPassword) -> Verified:
    """Compare a password with /etc/shadow. Raises TooManyRequests for too many of one account."""
    entry = agent.entry(message.name)
    agent.tries.take(entry.name)
    field = read_password_field(agent.system, entry.name)
    if shadow.verify_password(message.password, field):
        return Verified(passwords.fingerprint(field))
    log.info("wrong password", caller=caller.uid, name=entry.name)
    return Verified()


def confirm_password(agent: Agent, message: ConfirmPassword) -> None:
    """Note that the server knows a password. If it was changed again meanwhile, it is foreign again."""
    name = agent.entry(message.name).name
    agent.passwords.confirm({name: agent.passwords.get(name)._replace(fingerprint=message.fingerprint)})
    log.info("password confirmed", name=name)


def spend_step(agent: Agent, message: SpendStep) -> bool:
    return agent.registry.get(message.name) is None or agent.pam_files.spend(
        message.name, message.step, at=agent.clock()
    )
