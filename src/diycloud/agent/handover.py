"""What somebody who is to be purged has in the groups' folders goes to somebody else.

It comes before the purge, while the account is only locked: whatever breaks off, nothing is gone, and the same message again
does the rest. Root changes owners there by descriptors only (system/tree.py): the members of the groups write there meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from diycloud.agent.changes import stop_workloads
from diycloud.agent.protocol import Handed, State
from diycloud.agent.state import Agent, Caller, log
from diycloud.errors import Conflict
from diycloud.host import groups
from diycloud.host.accounts import HostAccounts


def hand_over(agent: Agent, caller: Caller, name: str, to: str) -> Handed:
    """Give what a locked account has in the shared folders to another account, before it is purged.

    Raises Conflict if the one is not locked or the other is, PermissionDenied for what is no ordinary account.
    """
    agent.registry.require_sound()
    entry, heir = agent.registry.get(name), agent.entry(to)
    if entry is None:
        return Handed()  # a purge came through
    host = HostAccounts(agent.system)
    live, living = agent.check_live(caller, entry, host), agent.check_live(caller, heir, host)
    if entry.state is not State.LOCKED or (live is not None and not live.locked):
        raise Conflict(f"{name} is not locked.", "Delete the user first.")
    if heir.state is State.LOCKED or living is None:
        raise Conflict(f"{to} is locked, or not on the host.", "Choose somebody who can use what is handed over.")
    stop_workloads(agent, entry)
    given = left = 0
    for group in sorted(agent.groups.gids):
        if groups.check_folder(agent.settings.shared, group):
            some, others = agent.system.give_tree(Path(agent.settings.shared) / group, old=entry.uid, new=heir.uid)
            given, left = given + some, left + others
    log.info("files handed over", caller=caller.uid, name=name, to=to, given=given, left=left)
    return Handed(given, left)
