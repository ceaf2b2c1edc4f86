"""Results as people read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diycloud.actions.action import Action
from diycloud.auth.actions import ListAudit
from diycloud.cli.output import as_json, colour, facts, printable, table
from diycloud.resources.actions import ShowHost
from diycloud.units import human_size
from diycloud.users import actions as users


def show(action: type[Action[Any]], result: Any) -> str:
    """Return an action's result for a terminal."""
    return _VIEWS.get(action, as_json)(result)


def user(found: dict[str, Any]) -> str:
    limits = found["limits"]
    state = found["status"] if found["settled"] else f"{found['status']} (the host is not ready)"
    pairs = [
        ("user", found["username"]),
        ("status", state),
        ("role", found["role"]),
        ("name", found["full_name"]),
        ("e-mail", found["email"]),
        ("note", found["description"]),
        ("uid", "portal only" if found["portal_only"] else found["uid"]),
        ("CPU", f"{limits['cpu']:g} cores"),
        ("memory", limits["memory"]),
        ("disk", f"{limits['disk']} (at most {limits['disk_hard']})"),
        ("processes", limits["tasks"]),
        ("GPU", limits["gpu"]),
        ("created", found["created_at"]),
        ("last sign-in", found["last_login"]),
    ]
    if found["host_problem"]:
        pairs.append(("problem", found["host_problem"]))
    return facts(pairs)


def changed(result: dict[str, Any]) -> str:
    text = user(result["user"])
    if result.get("password"):
        text += f"\n\nGenerated password: {colour(result['password'], 'bold')}\nIt is shown only now."
    return text


def page(result: dict[str, Any]) -> str:
    if not result["users"]:
        return "No user matches."
    rows = []
    for u in result["users"]:
        limits = u["limits"]
        status = u["status"] if u["settled"] else f"{u['status']} *"
        rows.append(
            (
                u["username"],
                u["full_name"],
                u["role"],
                status,
                limits["cpu"],
                limits["memory"],
                limits["disk"],
                u["last_login"],
            )
        )
    headings = ("USER", "NAME", "ROLE", "STATUS", "CPU", "MEMORY", "DISK", "LAST SIGN-IN")
    text = table(headings, rows, right=("CPU", "MEMORY", "DISK"))
    text += f"\n{len(rows)} of {result['total']}"
    if result["next"]:
        text += f"; the next: --cursor {result['next']}"
    return text


def purge_plan(plan: dict[str, Any]) -> str:
    return facts(
        [
            ("user", f"{plan['username']} ({plan['status']}, uid {printable(plan['uid'])})"),
            (
                "home",
                f"{plan['home']}: {plan['home_size']} in {plan['home_files']} files, kept in the trash for a while",
            ),
            ("processes", plan["processes"]),
        ]
    )


def purged(result: dict[str, Any]) -> str:
    return f"{result['username']} is gone." + (" The home is in the trash." if result["home_in_trash"] else "")


def imported(report: dict[str, Any]) -> str:
    rows: list[tuple[Any, ...]] = []
    for row in report["rows"]:
        notes = [f"{column}: {text}" for column, text in row["errors"]] + list(row["warnings"])
        rows.append((row["line"], row["username"], row["outcome"], row["password"], "; ".join(notes)))
    with_passwords = any(row["password"] for row in report["rows"])
    headings = ["LINE", "USER", "OUTCOME", "PASSWORD", "NOTES"]
    if not with_passwords:
        headings.remove("PASSWORD")
        rows = [row[:3] + row[4:] for row in rows]
    text = table(headings, rows, right=("LINE",)) if rows else "The file has no rows."
    good = len(report["rows"]) - report["refused"]
    if report["dry_run"]:
        text += f"\n{good} would be created, {report['refused']} would be refused. Nothing was changed."
    elif report["refused"] and not report["created"]:
        text += f"\n{report['refused']} of {len(report['rows'])} rows are at fault. Nothing was changed."
    else:
        text += f"\n{report['created']} created, {report['pending']} waiting for the host, {report['refused']} refused."
    return text


def usage(reading: dict[str, Any]) -> str:
    def size(value: float) -> str:
        return human_size(value)

    rows = [("CPU (cores)", f"{reading['cpu']['used']:.2f}", f"{reading['cpu']['limit']:g}")]
    rows.append(("memory", size(reading["memory"]["used"]), size(reading["memory"]["limit"])))
    rows.append(("processes", f"{reading['tasks']['used']:g}", f"{reading['tasks']['limit']:g}"))
    text = table(("", "USED", "LIMIT"), rows, right=("USED", "LIMIT"))
    if reading["oom_kills"]:
        text += f"\n{reading['oom_kills']} times something was ended for want of memory."
    return text


def entries(result: dict[str, Any]) -> str:
    if not result["entries"]:
        return "Nothing is recorded."
    rows = [
        (e["id"], e["at"], e["actor"], e["via"], e["action"], e["target"], e["outcome"], e["message"][:60])
        for e in result["entries"]
    ]
    text = table(("ID", "WHEN (UTC)", "ACTOR", "VIA", "ACTION", "ON", "OUTCOME", "MESSAGE"), rows, right=("ID",))
    return text + (f"\nOlder ones: --before {result['next']}" if result["next"] else "")


def host(found: dict[str, Any]) -> str:
    return facts(
        [
            ("cores", f"{found['cores']}, {found['promised_cores']:g} promised"),
            ("memory", f"{human_size(found['memory'])}, {human_size(found['promised_memory'])} promised"),
            ("limits by", found["slices"] or f"nothing: {found['unsupported']}"),
            ("not yet as wished", f"{found['unsettled']} users"),
            ("accounts without a user", ", ".join(found["orphans"])),
            *([("reconcile stopped", found["stopped"])] if found["stopped"] else []),
        ]
    )


_VIEWS: dict[type[Action[Any]], Callable[[Any], str]] = {
    users.CreateUser: changed,
    users.ShowUser: user,
    users.ListUsers: page,
    users.ModifyUser: changed,
    users.SetLimits: changed,
    users.DisableUser: changed,
    users.EnableUser: changed,
    users.DeleteUser: changed,
    users.RestoreUser: changed,
    users.PreviewPurge: purge_plan,
    users.PurgeUser: purged,
    users.SetPassword: changed,
    users.ImportUsers: imported,
    users.ReadUsage: usage,
    ListAudit: entries,
    ShowHost: host,
}
