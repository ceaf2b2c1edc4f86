"""Results as people read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diycloud.actions.action import Action
from diycloud.auth import actions as auth
from diycloud.auth.oidc import actions as apps
from diycloud.cli import applications, factors, identities, notebooks, signing, tenancy
from diycloud.cli.output import as_json, colour, facts, printable, table
from diycloud.domains import actions as domains
from diycloud.groups import actions as groups
from diycloud.policies import actions as policies
from diycloud.resources.actions import ShowHost
from diycloud.units import human_size
from diycloud.users import actions as users


def show(action: type[Action[Any]], result: Any) -> str:
    """Return an action's result for a terminal."""
    return _VIEWS.get(action, as_json)(result)


def done(action: type[Action[Any]], target: str) -> str:
    """Return what was done by an action that answers nothing."""
    return _DONE.get(action, "Done.").format(printable(target))


def user(found: dict[str, Any]) -> str:
    limits = found["limits"]
    state = found["status"] if found["settled"] else f"{found['status']} (the host is not ready)"
    pairs = [
        ("user", found["username"]),
        ("status", state),
        ("role", found["role"]),
        ("domain", found["domain"]),
        ("groups", ", ".join(found["groups"])),
        ("policy", found["policy"]),
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


def keys(result: dict[str, Any]) -> str:
    if not result["keys"]:
        return f"{result['username']} has no SSH keys here."
    rows = [(key["fingerprint"], key["type"], key["comment"]) for key in result["keys"]]
    return table(("FINGERPRINT", "TYPE", "COMMENT"), rows)


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
            ("stays", f"what is in the folders of {', '.join(plan['groups'])}" if plan.get("groups") else ""),
            ("audit", f"{plan.get('history', 0)} entries name the user; --history anonymous changes that"),
        ]
    )


def purged(result: dict[str, Any]) -> str:
    text = f"{result['username']} is gone." + (" The home is in the trash." if result["home_in_trash"] else "")
    if result.get("handed_over"):
        text += f" {result['handed_over']} files and folders are handed over."
    return text + (f" It is packed in {result['archive']} ({result['archive_size']})." if result.get("archive") else "")


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
        changed = sum(row["outcome"] == "change" for row in report["rows"])
        text += f"\n{good - changed} would be created, {report['refused']} would be refused. Nothing was changed."
        text += f"\n{changed} that exist would be changed." if changed else ""
    elif report["refused"] and not report["created"]:
        text += f"\n{report['refused']} of {len(report['rows'])} rows are at fault. Nothing was changed."
    else:
        changed = f"{report['changed']} changed, " if report["changed"] else ""
        text += f"\n{report['created']} created, {changed}{report['pending']} waiting for the host, "
        text += f"{report['refused']} refused."
    return text


def bulk(report: dict[str, Any]) -> str:
    rows = []
    for row in report["rows"]:
        notes = [f"{field}: {text}" for field, text in row["errors"]] + list(row["warnings"])
        rows.append((row["row"], row["username"], row["action"], row["outcome"], row["password"], "; ".join(notes)))
    text = (
        table(("ROW", "USER", "ACTION", "OUTCOME", "PASSWORD", "NOTES"), rows, right=("ROW",)) if rows else "No rows."
    )
    if report["dry_run"]:
        return f"{text}\n{len(rows) - report['failed']} are possible, {report['failed']} are not. Nothing was changed."
    if report["failed"] and not (report["done"] or report["pending"] or report["left_out"]):
        return f"{text}\n{report['failed']} of {len(rows)} rows are at fault. Nothing was changed."
    counts = f"{report['done']} done, {report['pending']} waiting for the host, {report['failed']} refused"
    return f"{text}\n{counts}, {report['left_out']} left out."


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
        (e["id"], e["at"], e["actor"], _way(e), e["action"], e["target"], e["outcome"], e["message"][:60])
        for e in result["entries"]
    ]
    text = table(("ID", "WHEN (UTC)", "ACTOR", "VIA", "ACTION", "ON", "OUTCOME", "MESSAGE"), rows, right=("ID",))
    return text + (f"\nOlder ones: --before {result['next']}" if result["next"] else "")


def _way(entry: dict[str, Any]) -> str:
    return f"{entry['via']}, token {entry['token']}" if entry["token"] else str(entry["via"])


def host(found: dict[str, Any]) -> str:
    return facts(
        [
            ("cores", f"{found['cores']}, {found['promised_cores']:g} promised"),
            ("memory", f"{human_size(found['memory'])}, {human_size(found['promised_memory'])} promised"),
            ("limits by", found["slices"] or f"nothing: {found['unsupported']}"),
            ("not yet as wished", f"{found['unsettled']} users"),
            ("accounts without a user", ", ".join(found["orphans"])),
            *([("users locked out", ", ".join(found["locked_out"]))] if found["locked_out"] else []),
            *([("reconcile stopped", found["stopped"])] if found["stopped"] else []),
        ]
    )


_VIEWS: dict[type[Action[Any]], Callable[[Any], str]] = {
    auth.ChangePassword: changed,
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
    users.AdoptUser: changed,
    users.SetSudo: changed,
    users.SetPassword: changed,
    users.ImportUsers: imported,
    users.ReadUsage: usage,
    auth.ListKeys: keys,
    auth.AddKey: keys,
    auth.RemoveKey: keys,
    groups.CreateGroup: tenancy.group_changed,
    groups.ListGroups: tenancy.groups,
    groups.ShowGroup: tenancy.group_detail,
    groups.ModifyGroup: tenancy.group_changed,
    groups.AddMembers: tenancy.group_changed,
    groups.RemoveMembers: tenancy.group_changed,
    groups.PreviewRemoveGroup: tenancy.group_plan,
    domains.CreateDomain: tenancy.domain,
    domains.ListDomains: tenancy.domains,
    domains.ShowDomain: tenancy.domain,
    domains.ModifyDomain: tenancy.domain,
    policies.CreatePolicy: tenancy.policy_changed,
    policies.ListPolicies: tenancy.policies,
    policies.ShowPolicy: tenancy.policy,
    policies.ModifyPolicy: tenancy.policy_changed,
    policies.ApplyPolicy: changed,
    auth.ListSessions: signing.session_page,
    auth.ShowSessions: signing.sessions,
    auth.CreateToken: signing.token_created,
    auth.ListTokens: signing.tokens,
    auth.ListWaiting: signing.waiting,
    apps.CreateApp: applications.issued,
    apps.ListApps: applications.listed,
    apps.ShowApp: applications.detail,
    apps.ModifyApp: applications.changed,
    apps.RotateSecret: applications.issued,
    apps.RotateKeys: applications.rotated,
    apps.ListOwnApps: applications.own,
    auth.ListAudit: entries,
    ShowHost: host,
    **factors.VIEWS,
    **notebooks.VIEWS,
    **identities.VIEWS,
}
_DONE = {
    auth.EndSession: "The session of {} has ended.",
    auth.EndSessions: "{} is signed out.",
    auth.RevokeToken: "The token of {} has ended.",
    apps.RemoveApp: "The application {} is gone; what it was given has ended.",
    apps.WithdrawApp: "{} is allowed nothing any more; your sign-ins there have ended.",
    groups.RemoveGroup: "The group {} is gone. Its folder is in the trash.",
    domains.RemoveDomain: "The domain {} is gone.",
    policies.RemovePolicy: "The policy {} is gone.",
}
