"""The verbs about the platform itself: install, up, down, status, doctor, config."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from diycloud.cli.output import as_json, colour, printable, table
from diycloud.config import Paths
from diycloud.errors import InvalidInput


def add_options(parser: argparse.ArgumentParser, verb: str) -> None:
    """Give a platform verb its options."""
    _OPTIONS.get(verb, _plain)(parser)
    parser.set_defaults(run=_RUN[verb])


def _plain(parser: argparse.ArgumentParser) -> None:
    pass


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _install_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", default=None, help="print the exact plan, change nothing")
    parser.add_argument(
        "--domain", metavar="NAME", help="the name people type (default: this host's names and addresses)"
    )
    parser.add_argument("--https-port", type=int, metavar="N", help="default: 443")
    parser.add_argument("--http-port", type=int, metavar="N", help="redirects to HTTPS; default: 80")
    parser.add_argument("--admin-name", metavar="NAME", help="the portal's first administrator; default: admin")
    parser.add_argument(
        "--admin-password-file", metavar="FILE", help="its first line; default: a one-time password is made"
    )
    parser.add_argument(
        "--without-packages", action="store_true", default=None, help="install no distribution packages"
    )
    parser.add_argument("--without-notebooks", action="store_true", default=None, help="set no notebooks up")
    parser.epilog = "Each option can stand in the environment too: DIYCLOUD_ADMIN_NAME and so on."


def _uninstall_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="print the exact plan, change nothing")
    parser.add_argument("--keep-logs", action="store_true", help="leave /var/log/diycloud")
    parser.add_argument("--remove-homes", action="store_true", help="remove the users' accounts, homes and groups too")


def _config_options(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    for name, text in (("show", "print all settings in force"), ("validate", "check the file")):
        verbs.add_parser(name, help=text)
    verbs.add_parser("get", help="print one setting").add_argument("key", metavar="SECTION.KEY")
    change = verbs.add_parser("set", help="change one setting, keeping the rest of the file as it is")
    change.add_argument("key", metavar="SECTION.KEY")
    change.add_argument("value", metavar="VALUE")


def _trash_options(parser: argparse.ArgumentParser) -> None:
    from diycloud.cli.rooted import trash_options

    trash_options(parser)


def _db_options(parser: argparse.ArgumentParser) -> None:
    from diycloud.cli.database import add_options

    add_options(parser)


def _metrics_options(parser: argparse.ArgumentParser) -> None:
    from diycloud.cli.metrics import add_options

    add_options(parser)


def _jupyter_options(parser: argparse.ArgumentParser) -> None:
    from diycloud.cli.jupyter import add_options

    add_options(parser)


_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "install": _install_options,
    "uninstall": _uninstall_options,
    "status": _json_option,
    "doctor": _json_option,
    "config": _config_options,
    "db": _db_options,
    "metrics": _metrics_options,
    "jupyter": _jupyter_options,
    "trash": _trash_options,
}


def _print(line: str) -> None:
    print(line, flush=True)


def _install(arguments: argparse.Namespace) -> int:
    from diycloud.core.operations import install

    names = (
        "dry_run", "domain", "https_port", "http_port", "admin_name", "admin_password_file", "without_packages",
        "without_notebooks",
    )  # fmt: skip
    given = {name: getattr(arguments, name) for name in names}
    return install({**given, "prefix": None if arguments.prefix == "/" else arguments.prefix}, _print)


def _uninstall(arguments: argparse.Namespace) -> int:
    from diycloud.core.operations import uninstall

    if not arguments.yes and not arguments.dry_run:
        homes = "The users' accounts and homes go too." if arguments.remove_homes else "Users' accounts and homes stay."
        print(f"This takes DIY Cloud off this machine: program, settings, database, certificates. {homes}")
        if not sys.stdin.isatty():
            raise InvalidInput("There is no terminal to ask at.", "Say --yes.")
        if input("Type uninstall to go on: ").strip() != "uninstall":
            raise InvalidInput("Nothing was removed.")
    names = ("dry_run", "keep_logs", "remove_homes")
    return uninstall({**{name: getattr(arguments, name) for name in names}, "prefix": arguments.prefix}, _print)


def _up(arguments: argparse.Namespace) -> int:
    from diycloud.core.operations import up

    started = up(Paths(arguments.prefix))
    print(f"Started {', '.join(started)}." if started else "Everything runs already.")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    from diycloud.core.operations import down

    stopped = down(Paths(arguments.prefix))
    print(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")
    print("What users run goes on, within their limits.")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from diycloud.core.operations import status

    found = status(Paths(arguments.prefix))
    well = found.installed and not found.problem and all(service.active for service in found.services)
    if arguments.json:
        import msgspec

        print(as_json({**msgspec.to_builtins(found), "ok": well}))
        return 0 if well else 9
    if not found.installed:
        print("DIY Cloud is not set up here: sudo ./install.sh")
        return 9
    rows = [
        (s.name, "runs" if s.active else "DOWN", "starts by itself" if s.enabled else "does not start by itself")
        for s in found.services
    ]
    print(table(("SERVICE", "STATE", "AT BOOT"), rows))
    print(f"Address: {found.address}")
    if found.problem:
        print(f"{found.problem} The portal waits for it; what users run goes on.")
    elif not well:
        print("`diycloud up` starts what is down; `diycloud doctor` says why.")
    return 0 if well else 9


_MARKS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


def _doctor(arguments: argparse.Namespace) -> int:
    from diycloud.core.doctor import examine

    checks = examine(Paths(arguments.prefix))
    failed = any(check.result == "fail" for check in checks)
    if arguments.json:
        import msgspec

        print(as_json({"checks": msgspec.to_builtins(checks), "ok": not failed}))
        return 9 if failed else 0
    for check in checks:
        mark, shade = _MARKS[check.result]
        print(f"{colour(f'{mark:4}', shade)}  {check.name}: {printable(check.detail)}")
        if check.advice:
            print(f"      {printable(check.advice)}")
    return 9 if failed else 0


def _config(arguments: argparse.Namespace) -> int:
    import msgspec

    from diycloud.core.operations import set_setting, settings

    paths = Paths(arguments.prefix)
    if arguments.verb == "set":
        set_setting(paths, arguments.key, arguments.value)
        own = arguments.key.startswith("notebooks.") and arguments.key != "notebooks.enabled"
        print(
            f"{arguments.key} is set. `diycloud {'jupyter setup' if own else 'install'}` makes what depends on it follow."
        )
        return 0
    values = msgspec.to_builtins(settings(paths))
    if arguments.verb == "validate":
        print(f"{paths.config} is right." if paths.config.exists() else "There is no file: the defaults hold.")
    elif arguments.verb == "get":
        section, _, key = arguments.key.partition(".")
        if key not in values.get(section, {}):
            raise InvalidInput(f"{arguments.key} is no setting.", "`diycloud config show` prints them all.")
        print(values[section][key])
    else:
        import yaml

        print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
    return 0


def _trash(arguments: argparse.Namespace) -> int:
    from diycloud.cli.rooted import trash

    return trash(arguments)


def _db(arguments: argparse.Namespace) -> int:
    from diycloud.cli.database import run

    return run(arguments)


def _metrics(arguments: argparse.Namespace) -> int:
    from diycloud.cli.metrics import run

    return run(arguments)


def _jupyter(arguments: argparse.Namespace) -> int:
    from diycloud.cli.jupyter import run

    return run(arguments)


def _completion(arguments: argparse.Namespace) -> int:
    from diycloud.cli.completion import script

    print(script())
    return 0


_RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    "install": _install,
    "uninstall": _uninstall,
    "up": _up,
    "down": _down,
    "status": _status,
    "doctor": _doctor,
    "config": _config,
    "db": _db,
    "metrics": _metrics,
    "jupyter": _jupyter,
    "trash": _trash,
    "completion": _completion,
}
