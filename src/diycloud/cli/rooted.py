"""The verbs by which root itself speaks to the agent: adopt, sudo, trash, and a purge beyond the server's share.

The agent believes nobody else in these. Where the server has to know too, it is told before (a row that waits) or after
(a note), in an order that the same command completes after a crash.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any, TypeVar

from diycloud.actions.action import Action, summary
from diycloud.actions.parsing import Source, parse_action
from diycloud.cli.output import as_json, colour, printable, table
from diycloud.cli.transport import Target, checked, send
from diycloud.client.requests import request_of
from diycloud.config import Paths
from diycloud.core.routes import PREFIX, Route
from diycloud.errors import BY_CODE, DiyCloudError, HostError, InvalidInput, NotFound, PermissionDenied
from diycloud.units import human_size, parse_size
from diycloud.users.actions import AdoptUser, SetSudo

T = TypeVar("T")
ARCHIVE_S = 600.0


def add_verb(verbs: Any, route: Route, formatter: Any) -> None:
    """Give a noun's parser one of these verbs."""
    text = summary(route.action)
    word = route.verb.split(" ")[1]
    parser = verbs.add_parser(
        word, help=text[0].lower() + text[1:].rstrip("."), description=text, formatter_class=formatter
    )
    options, run = VERBS[route.action]
    options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lambda arguments: run(arguments, route))


def ask(paths: Paths, message: Any, answer: type[T], *, deadline: float = 60.0) -> T:
    """Say something to the agent on root's word. Raises PermissionDenied for others, the agent's own errors."""
    from diycloud.agent.client import call_blocking

    if os.geteuid() != 0:
        raise PermissionDenied("This needs root on the server itself.", "Run it there with sudo.")
    return call_blocking(paths.agent_socket, message, answer, deadline=deadline)


def _here(arguments: argparse.Namespace) -> Target:
    """Return this machine as the target. Raises PermissionDenied for others than root, and for another server."""
    target = Target.of(arguments)
    if target.on_behalf_of or target.session() is not None:
        raise PermissionDenied("This holds only on root's own word, on the server itself.", "Run it there with sudo.")
    return target


def _send(target: Target, route: Route, raw: dict[str, Any]) -> Any:
    action: Action[Any] = parse_action(route.action, raw, Source.JSON)
    path, query, body = request_of(route, {name: getattr(action, name) for name in raw})
    return checked(send(target, route.method, path, query, body))


def purge(target: Target, username: str, *, archive: bool) -> None:
    """Have the agent archive and purge an account on root's own word: on the server's it does only some in an hour.

    The server then finds nothing left to purge, and removes the user.
    """
    from diycloud.agent.protocol import Archived, ArchiveHome, Outcome, PurgeAccount

    found = checked(send(target, "GET", f"{PREFIX}/users/{username}", {}, None))
    if archive:
        packed = ask(target.paths, ArchiveHome(username), Archived, deadline=ARCHIVE_S)
        sys.stderr.write(f"The home of {username} is packed in {packed.path}.\n" if packed.path else "")
    ask(target.paths, PurgeAccount(username, found["version"]), Outcome)


def remove_group(target: Target, name: str) -> None:
    """Have the agent remove a group on root's own word, as `purge` does; the server then removes its rows."""
    from diycloud.agent.protocol import Outcome, RemoveGroup

    ask(target.paths, RemoveGroup(name), Outcome)


# -- adopt


def _adopt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="accounts of this host")
    parser.add_argument("--all", action="store_true", help="every account that can be adopted")
    parser.add_argument("--dry-run", action="store_true", help="show what could be adopted, and why the rest not")
    for name, text in (("domain", "of the users"), ("policy", "that says the limits (default: the domain's)")):
        parser.add_argument(f"--{name}", metavar="NAME", help=text)
    for name in ("memory", "disk"):
        parser.add_argument(f"--{name}", metavar="SIZE", help="limit (default: the policy's)")
    parser.add_argument("--cpu", metavar="N", help="limit in cores (default: the policy's)")
    parser.add_argument("--tasks", metavar="N", help="limit on processes (default: the policy's)")


def _adopt(arguments: argparse.Namespace, route: Route) -> int:
    target = _here(arguments)
    found = _find(target.paths)
    if arguments.dry_run or not (arguments.names or arguments.all):
        sys.stdout.write((as_json(found) if arguments.json else _adoptable(found)) + "\n")
        return 0
    by_name = {account["name"]: account for account in found}
    if arguments.all:
        arguments.names = sorted(name for name, account in by_name.items() if not account["problem"])
    chosen = {"domain", "policy", "memory", "disk", "cpu", "tasks"}
    more = {name: value for name in chosen if (value := getattr(arguments, name)) is not None}
    results = []
    for name in dict.fromkeys(arguments.names):
        try:
            user, warning = _adopt_one(target, route, name, by_name.get(name), more)
            results.append({"username": name, "outcome": "adopted", "uid": user["uid"], "note": warning})
        except DiyCloudError as error:
            results.append({"username": name, "outcome": "refused", "uid": None, "note": str(error)})
    refused = any(result["outcome"] == "refused" for result in results)
    if arguments.json:
        sys.stdout.write(as_json({"accounts": results}) + "\n")
    else:
        rows = [(result["username"], result["uid"], result["outcome"], result["note"]) for result in results]
        sys.stdout.write(table(("ACCOUNT", "UID", "OUTCOME", "NOTES"), rows, right=("UID",)) + "\n")
    return 2 if refused else 0


def _find(paths: Paths) -> list[dict[str, Any]]:
    """Return every account that is not managed, with what is in the way of adopting it."""
    import msgspec

    from diycloud.agent.protocol import Adoptable, FindAdoptable

    found: list[Adoptable] = []
    while True:
        part = ask(paths, FindAdoptable(found[-1].name if found else ""), list[Adoptable])
        if not part:
            return [msgspec.to_builtins(account) for account in found]
        found += part


def _adopt_one(
    target: Target, route: Route, name: str, account: dict[str, Any] | None, more: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Wish, root's word, settle. Returns the user and a warning."""
    from diycloud.agent.protocol import AdoptAccounts, Limits, Outcome, Wish

    if account is None:  # managed already, perhaps by a start of this command that was cut off
        user = checked(send(target, "GET", f"{PREFIX}/users/{name}", {}, None))
        if user["uid"] is None:
            raise NotFound(f"There is no account {name} on this host that could be adopted.")
        raw = {"username": name, "uid": user["uid"], "shell": user["shell"], "full_name": user["full_name"]}
        return _send(target, route, raw)["user"], ""
    if account["problem"]:
        raise InvalidInput(f"{name} cannot be adopted: {account['problem']}")
    raw = {"username": name, "uid": account["uid"], "shell": account["shell"], "full_name": account["full_name"]}
    action = parse_action(AdoptUser, {**{k: str(v) for k, v in raw.items()}, **more}, Source.TEXT)
    path, query, body = request_of(route, {key: getattr(action, key) for key in {**raw, **more}})
    user = checked(send(target, route.method, path, query, body))["user"]
    limits = user["limits"]
    memory = parse_size(limits["memory"])
    wish = Wish(
        name, user["version"], Limits(limits["cpu"], memory, limits["tasks"]),
        full_name=account["full_name"], shell=account["shell"],
    )  # fmt: skip
    outcome = ask(target.paths, AdoptAccounts([wish]), list[Outcome])[0]
    if outcome.code:
        raise BY_CODE.get(outcome.code, HostError)(outcome.message)
    answer = checked(send(target, route.method, path, query, body))
    return answer["user"], " ".join(filter(None, (outcome.warning, *answer["warnings"])))


def _adoptable(found: list[dict[str, Any]]) -> str:
    if not found:
        return "Every account of this host is a user already."
    rows = [(a["name"], a["uid"], a["full_name"], "no" if a["problem"] else "yes", a["problem"]) for a in found]
    return table(("ACCOUNT", "UID", "NAME", "CAN BE ADOPTED", "WHY NOT"), rows, right=("UID",))


# -- sudo


def _sudo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a user")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--grant", action="store_true", help="make the user an administrator of this host")
    choice.add_argument("--revoke", action="store_true", help="take that away")


def _sudo(arguments: argparse.Namespace, route: Route) -> int:
    from diycloud.agent.protocol import GrantSudo, Outcome

    target = _here(arguments)
    if arguments.grant:
        checked(send(target, "GET", f"{PREFIX}/users/{arguments.name}", {}, None))  # a name that is a user's
    ask(target.paths, GrantSudo(arguments.name, arguments.grant), Outcome)
    result = _send(target, route, {"username": arguments.name, "granted": bool(arguments.grant)})
    if arguments.json:
        sys.stdout.write(as_json(result) + "\n")
    else:
        has = "has sudo now: as good as root on this host" if arguments.grant else "has no sudo by the platform"
        sys.stdout.write(f"{arguments.name} {has}.\n")
    return 0


VERBS: dict[type[Action[Any]], Any] = {AdoptUser: (_adopt_options, _adopt), SetSudo: (_sudo_options, _sudo)}


# -- trash


def trash_options(parser: argparse.ArgumentParser) -> None:
    """Give the trash its verbs."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    listing = verbs.add_parser("list", help="show the homes and group folders that purges left")
    listing.add_argument("--json", action="store_true", help="print JSON")
    empty = verbs.add_parser("empty", help="remove them for good, before their time is over")
    empty.add_argument("names", nargs="*", metavar="NAME", help="only what was these users' or groups'")
    empty.add_argument("--older-than", type=float, metavar="HOURS", default=0.0, help="only what is there for longer")
    empty.add_argument("--yes", action="store_true", help="do not ask")


def trash(arguments: argparse.Namespace) -> int:
    """`diycloud trash list`, `diycloud trash empty`."""
    import msgspec

    from diycloud.agent.protocol import EmptyTrash, ListTrash, Trashed

    paths = Paths(arguments.prefix)
    found = ask(paths, ListTrash(), list[Trashed])
    if arguments.verb == "list":
        shown = as_json({"trash": msgspec.to_builtins(found)}) if arguments.json else _in_trash(found)
        sys.stdout.write(shown + "\n")
        return 0
    unknown = sorted(set(arguments.names) - {item.name for item in found})
    if unknown:
        raise NotFound(f"Nothing in the trash is of {', '.join(unknown)}.", "`diycloud trash list` shows what is.")
    due = time.time() - arguments.older_than * 3600
    chosen = [item for item in found if item.at <= due and (not arguments.names or item.name in arguments.names)]
    if not chosen:
        sys.stdout.write("There is nothing to remove.\n")
        return 0
    sys.stderr.write(_in_trash(chosen) + "\n")
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise InvalidInput("What is removed from the trash is gone.", "Say --yes to remove it without being asked.")
        sys.stderr.write("Type remove to remove all of that for good: ")
        sys.stderr.flush()
        if sys.stdin.readline().strip() != "remove":
            raise InvalidInput("Nothing was removed.")
    gone = ask(paths, EmptyTrash([item.folder for item in chosen]), list[str], deadline=ARCHIVE_S)
    sys.stdout.write(f"{colour('Removed', 'bold')} {len(gone)} of {len(chosen)}.\n")
    return 0


def _in_trash(found: list[Any]) -> str:
    if not found:
        return "The trash is empty."
    now = time.time()
    rows = []
    for item in found:
        size = ("more than " if item.more else "") + human_size(item.bytes)
        rows.append((item.name, item.number, f"{(now - item.at) / 3600:.1f} h", size, printable(item.folder)))
    return table(("OF", "NUMBER", "SINCE", "SIZE", "FOLDER"), rows, right=("NUMBER", "SINCE", "SIZE"))
