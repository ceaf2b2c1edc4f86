"""Administrators of the host, made and unmade on root's word; and how one of them changes their own password.

Who has sudo through the platform stands in a root-only file beside the list of managed accounts, one name a line; the
drop-in for sudo is made of it. What the server may still do to such an account is in `Agent.check_live`.
"""

from __future__ import annotations

from diycloud.agent.passwords import fingerprint
from diycloud.agent.protocol import ChangeOwnPassword, GrantSudo, Outcome
from diycloud.agent.state import Agent, Caller, log
from diycloud.errors import Conflict, PermissionDenied, Unauthenticated
from diycloud.host import password_fields, shadow, sudo
from diycloud.host.accounts import HostAccounts


def grant_sudo(agent: Agent, caller: Caller, message: GrantSudo) -> Outcome:
    """Give a managed account all rights of the host's, or take them away. Safe to repeat.

    Raises PermissionDenied where the settings do not allow it or somebody else gave the account rights, Unsupported
    without sudo.
    """
    agent.registry.require_sound()
    name = message.name
    if not message.granted:
        changed = revoke(agent, name)
        entry = agent.registry.get(name)
        if changed:
            log.warning("sudo revoked", caller=caller.uid, name=name)
        return Outcome(name, entry.uid if entry else None, changed=changed)
    if not agent.settings.allow_sudo:
        raise PermissionDenied(
            "The settings of this host allow no user sudo.",
            "As root: diycloud config set agent.allow_sudo true, then diycloud down, diycloud up.",
        )
    entry = agent.entry(name)
    host = HostAccounts(agent.system)
    live = agent.check_live(caller, entry, host)
    if live is None:
        raise Conflict(f"{name} has no account on the host.", "Ask again when the user is active.")
    if live.locked:
        raise Conflict(f"{name} is locked.", "Enable the user first.")
    # The file first: a line for sudo that the agent does not know of would be one that it cannot take away.
    names = agent.administrators.names | {name}
    agent.administrators.store(names)
    changed = sudo.ensure_sudoers(agent.system, names)
    if changed:
        log.warning("sudo granted", caller=caller.uid, name=name, uid=entry.uid)
    return Outcome(name, entry.uid, changed=changed)


def revoke(agent: Agent, name: str) -> bool:
    """Take sudo away, the line for sudo first. True if the account had it."""
    if name not in agent.administrators.names:
        return False
    names = agent.administrators.names - {name}
    sudo.ensure_sudoers(agent.system, names)
    agent.administrators.store(names)
    return True


def change_own_password(agent: Agent, caller: Caller, message: ChangeOwnPassword) -> Outcome:
    """Set a new password for whoever knows the old one.

    The old one is compared with /etc/shadow here, so a stolen server cannot claim it; and guessing through this gets
    slower with each miss. Raises Unauthenticated for a wrong one, TooManyRequests while a wait runs.
    """
    agent.registry.require_sound()
    entry = agent.entry(message.name)
    live = HostAccounts(agent.system).get(message.name)
    if live is None or live.uid != entry.uid or live.uid < 1000:
        raise Conflict(f"{message.name} is not on the host as it should be.", "See diycloud doctor.")
    if live.locked:
        raise PermissionDenied(f"{message.name} is locked.", "An administrator can enable the account.")
    agent.guesses.check(message.name)
    if not shadow.verify_password(message.old, live.password):
        agent.guesses.failed(message.name)
        log.warning("wrong old password", caller=caller.uid, name=message.name)
        raise Unauthenticated("The old password is wrong.")
    agent.guesses.succeeded(message.name)
    known = agent.passwords.get(message.name)._replace(fingerprint=fingerprint(message.shadow))
    agent.passwords.confirm({message.name: known})
    password_fields.set_passwords(agent.system, {message.name: message.shadow})
    agent.note_change(message.name)
    log.info("password changed by its owner", caller=caller.uid, name=message.name)
    return Outcome(message.name, entry.uid, changed=True)
