"""Notebook servers as people read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diycloud.actions.action import Action
from diycloud.cli.output import printable, table
from diycloud.notebooks.actions import ListNotebooks, StartNotebook, StopNotebook
from diycloud.units import human_size


def listed(found: dict[str, Any]) -> str:
    rows = []
    for one in found["servers"]:
        since = one["started_at"] if one["state"] == "running" else one["ended_at"]
        used = human_size(one["memory"]) if one["state"] == "running" else ""
        rows.append((one["name"] or "(first)", one["state"], one["profile"], since, used, one["address"]))
    text = table(("SERVER", "STATE", "PROFILE", "SINCE (UTC)", "MEMORY", "ADDRESS"), rows, right=("MEMORY",))
    for one in found["servers"]:
        if one["reason"]:
            text += f"\n{one['name'] or '(first)'}: {printable(one['reason'])}"
        text += "".join(f"\n    {printable(line)}" for line in one["log"])
    if len(found["profiles"]) > 1:
        text += f"\nProfiles: {', '.join(profile['name'] for profile in found['profiles'])}"
    return text


def started(result: dict[str, Any]) -> str:
    running = result["state"] == "running"
    return f"{'It runs' if running else 'It is starting'}. In a browser where you are signed in: {result['address']}"


def stopped(result: dict[str, Any]) -> str:
    return f"{result['server_name'] or 'The first server'} of {result['username']} has ended."


VIEWS: dict[type[Action[Any]], Callable[[Any], str]] = {
    ListNotebooks: listed,
    StartNotebook: started,
    StopNotebook: stopped,
}
