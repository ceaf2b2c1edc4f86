"""Groups, domains and policies as people read them."""

from __future__ import annotations

from typing import Any

from diycloud.cli.output import facts, printable, table

IN_PROGRESS = "being removed"
_LIMITS = (("CPU", "cpu"), ("MEMORY", "memory"), ("DISK", "disk"), ("PROCESSES", "tasks"), ("GPU", "gpu"))


def group(found: dict[str, Any]) -> str:
    pairs = [
        ("group", found["name"]),
        ("domain", found["domain"]),
        ("note", found["description"]),
        ("gid", _gid(found)),
        ("folder", found["folder"]),
        ("disk", found["disk"]),
        ("members", found["members"]),
        ("created", found["created_at"]),
    ]
    if found["host_problem"]:
        pairs.append(("problem", found["host_problem"]))
    return facts(pairs)


def _gid(found: dict[str, Any]) -> Any:
    if found["removing"]:
        return IN_PROGRESS
    return "the host is not ready" if found["gid"] is None else found["gid"]


def group_detail(result: dict[str, Any]) -> str:
    names = result["members"]
    return group(result["group"]) + (f"\n\n{_columns(names)}" if names else "\n\nNobody is in it.")


def _columns(names: list[str], size: int = 80) -> str:
    """Return names in columns, read downwards."""
    shown = [printable(name) for name in names]
    wide = max(map(len, shown)) + 2
    height = -(-len(shown) // max(1, size // wide))
    return "\n".join("".join(name.ljust(wide) for name in shown[row::height]).rstrip() for row in range(height))


def group_changed(result: dict[str, Any]) -> str:
    return group(result["group"])


def groups(result: dict[str, Any]) -> str:
    if not result["groups"]:
        return "No group matches."
    rows = [
        (g["name"], g["domain"], g["members"], _gid(g), g["disk"], g["host_problem"][:60] or g["description"][:60])
        for g in result["groups"]
    ]
    text = table(("GROUP", "DOMAIN", "MEMBERS", "GID", "DISK", "NOTE"), rows, right=("MEMBERS", "GID", "DISK"))
    return text + (f"\nMore: --after {printable(result['next'])}" if result["next"] else "")


def group_plan(plan: dict[str, Any]) -> str:
    folder = f"{plan['folder']}: {plan['folder_size']} in {plan['folder_files']} files, kept in the trash for a while"
    return facts(
        [
            ("group", f"{plan['name']} (gid {printable(plan['gid'])})"),
            ("folder", folder if plan["folder"] else "none on the host"),
            ("members", f"{plan['members']}, who stay"),
        ]
    )


def domain(found: dict[str, Any]) -> str:
    return facts(
        [
            ("domain", found["name"]),
            ("note", found["description"]),
            ("policy of new users", found["policy"]),
            ("users", found["users"]),
            ("groups", found["groups"]),
            ("administrators", ", ".join(found["admins"])),
            ("created", found["created_at"]),
        ]
    )


def domains(result: dict[str, Any]) -> str:
    rows = [
        (d["name"], d["policy"], d["users"], d["groups"], ", ".join(d["admins"]), d["description"][:60])
        for d in result["domains"]
    ]
    headings = ("DOMAIN", "POLICY", "USERS", "GROUPS", "ADMINISTRATORS", "NOTE")
    return table(headings, rows, right=("USERS", "GROUPS")) if rows else "There is no domain that you may see."


def policy(found: dict[str, Any]) -> str:
    rows = [
        (heading.lower() if heading not in ("CPU", "GPU") else heading, *_pair(found, key)) for heading, key in _LIMITS
    ]
    head = facts(
        [
            ("policy", found["name"]),
            ("note", found["description"]),
            ("users", found["users"]),
            ("domains", ", ".join(found["domains"])),
            ("sessions of one person", found["max_sessions"] or "any number"),
            ("second factor", "needed" if found["second_factor"] else "by choice"),
            ("created", found["created_at"]),
        ]
    )
    return f"{head}\n\n{table(('', 'DEFAULT', 'AT MOST'), rows, right=('DEFAULT', 'AT MOST'))}"


def _pair(found: dict[str, Any], key: str) -> tuple[str, str]:
    """Return a limit's default and maximum; a maximum that is none as a dash."""
    return printable(found["defaults"][key]), printable(found["maxima"][key])


def policy_changed(result: dict[str, Any]) -> str:
    return policy(result["policy"])


def policies(result: dict[str, Any]) -> str:
    rows = [
        (p["name"], *(" / ".join(_pair(p, key)) for _, key in _LIMITS), p["users"], ", ".join(p["domains"]))
        for p in result["policies"]
    ]
    headings = ("POLICY", *(heading for heading, _ in _LIMITS), "USERS", "OF DOMAINS")
    text = table(headings, rows, right=(*(heading for heading, _ in _LIMITS), "USERS"))
    return f"{text}\nEach limit: what a new user gets / the most that can be given (– as much as the host has)."
