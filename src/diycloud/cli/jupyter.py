"""`diycloud jupyter`: notebooks on this machine, for root."""

from __future__ import annotations

import argparse
from typing import Any

from diycloud.cli.output import as_json, printable, table
from diycloud.config import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `diycloud jupyter` its verbs."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    setup = verbs.add_parser("setup", help="set notebooks up, or have them follow the settings")
    setup.add_argument("--dry-run", action="store_true", help="print the exact plan, change nothing")
    status = verbs.add_parser("status", help="what there is of notebooks, and what runs")
    backup = verbs.add_parser("backup", help="pack a user's notebooks into an archive for root")
    backup.add_argument("name", metavar="NAME", help="of the user")
    restore = verbs.add_parser("restore", help="unpack such an archive in the user's home")
    restore.add_argument("name", metavar="NAME", help="of the user")
    restore.add_argument(
        "archive", metavar="ARCHIVE", nargs="?", default="", help="a file (default: the last of the user's)"
    )
    _env_options(verbs.add_parser("env", help="shared environments: kernels for everybody"))
    for verb in (status, backup, restore):
        verb.add_argument("--json", action="store_true", help="print JSON")


_TRUST = (
    "What conda installs may run code of its own as root, as what --sources adds may: take it only from where you would "
    "take the system's packages."
)


def _env_options(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(
        title="verbs", metavar="VERB", dest="env_verb", required=True, parser_class=_Intermixed
    )
    listing = verbs.add_parser("list", help="list them, with what fills them")
    create = verbs.add_parser("create", help="make one, with pip or with conda", epilog=_TRUST)
    install = verbs.add_parser("install", help="add packages to one, or other versions of them", epilog=_TRUST)
    remove = verbs.add_parser("remove", help="take one away")
    for verb in (create, install, remove):
        verb.add_argument("name", metavar="NAME", help="of the environment: a–z, 0–9, _ and -")
    what = "such as numpy or numpy==2.4.1; with conda numpy=2.1 or 'r-base>=4.3'"
    create.add_argument("packages", metavar="PACKAGE", nargs="*", help=what)
    install.add_argument("packages", metavar="PACKAGE", nargs="+", help=what)
    create.add_argument("--conda", action="store_true", help="have the host's own micromamba, mamba or conda make it")
    for verb in (create, install):
        verb.add_argument(
            "--channel",
            metavar="CHANNEL",
            action="append",
            default=[],
            help="with conda: take packages from here, in this order, and not from the channels of conda's settings",
        )
        verb.add_argument(
            "--sources",
            action="store_true",
            help="with pip: also packages without a wheel; their own code then runs as root",
        )
    for verb in (listing, create, install):
        verb.add_argument("--json", action="store_true", help="print JSON")


class _Intermixed(argparse.ArgumentParser):
    """Takes options before, between and after the packages, as people write them."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._inside:
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def run(arguments: argparse.Namespace) -> int:
    """Run a verb; exit status 0 done, 1 a step failed, 9 a part is down."""
    return {"setup": _setup, "status": _status, "backup": _backup, "restore": _restore, "env": _env}[arguments.verb](
        arguments
    )


def _setup(arguments: argparse.Namespace) -> int:
    from diycloud.core.jupyter import setup

    return setup(Paths(arguments.prefix), lambda line: print(line, flush=True), dry_run=arguments.dry_run)


def _status(arguments: argparse.Namespace) -> int:
    import msgspec

    from diycloud.core.jupyter import status

    found = status(Paths(arguments.prefix))
    well = found.enabled and not found.problem and all(service.active for service in found.services)
    if arguments.json:
        print(as_json({**msgspec.to_builtins(found), "ok": well}))
        return 0 if well else 9
    if not found.enabled:
        print("Notebooks are not set up here: sudo diycloud jupyter setup")
        return 9
    print(table(("SERVICE", "STATE"), [(s.name, "runs" if s.active else "DOWN") for s in found.services]))
    rows = [
        (
            e.name,
            ", ".join(f"{name} {version}" for name, version in e.versions.items()),
            "current" if e.current else "OLD" if e.versions else "MISSING",
        )
        for e in found.environments
    ]
    rows += [(kernel.name, "shared", kernel.problem or "current") for kernel in found.kernels]
    print(table(("ENVIRONMENT", "WHAT", "STATE"), rows))
    print(f"Address: {found.address}")
    print(found.problem or f"Servers: {found.running} running, {found.failed} failed.")
    if not all(environment.current for environment in found.environments):
        print("`diycloud jupyter setup` makes what is old or missing again.")
    if not all(service.active for service in found.services):
        print("`diycloud up` starts what is down; `diycloud doctor` shows its last words.")
    return 0 if well else 9


def _backup(arguments: argparse.Namespace) -> int:
    from diycloud.core.notebook_backups import backup
    from diycloud.units import human_size

    made = backup(Paths(arguments.prefix), arguments.name)
    if arguments.json:
        print(as_json({"path": str(made.path), "bytes": made.bytes, "left_out": made.left_out}))
        return 0
    print(f"The notebooks of {arguments.name} are packed in {made.path} ({human_size(made.bytes)}).")
    if made.left_out:
        print(f"{made.left_out} entries were left out: sockets and the like, mounts, and what the user cannot read.")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from diycloud.core.notebook_backups import restore

    folder = restore(Paths(arguments.prefix), arguments.name, arguments.archive)
    print(as_json({"folder": folder}) if arguments.json else f"The notebooks of {arguments.name} are in {folder}.")
    return 0


def _env(arguments: argparse.Namespace) -> int:
    import msgspec

    from diycloud.core import jupyter

    paths = Paths(arguments.prefix)
    if arguments.env_verb == "list":
        kernels = jupyter.list_envs(paths)
        if arguments.json:
            print(as_json({"environments": msgspec.to_builtins(kernels)}))
        elif kernels:
            rows = [(k.name, k.kind, k.problem or f"{len(k.packages)} packages", k.folder) for k in kernels]
            print(table(("NAME", "BY", "STATE", "FOLDER"), rows))
        else:
            print("There is none. `diycloud jupyter env create NAME PACKAGE…` makes one.")
        return 0
    if arguments.env_verb == "remove":
        jupyter.remove_env(paths, arguments.name)
        print(f"The environment {printable(arguments.name)} is gone.")
        return 0
    given = {"sources": arguments.sources, "channels": tuple(arguments.channel)}
    if arguments.env_verb == "create":
        kernel = jupyter.create_env(
            paths, arguments.name, tuple(arguments.packages), with_conda=arguments.conda, **given
        )
    else:
        kernel = jupyter.install_env(paths, arguments.name, tuple(arguments.packages), **given)
    if arguments.json:
        print(as_json(msgspec.to_builtins(kernel)))
    else:
        names = " and ".join(kernel.kernels)
        print(f"{kernel.name} has {len(kernel.packages)} packages. New notebooks offer it as {names} (shared).")
    return 0
