"""`diycloud db`: what is in the database, and moving it to PostgreSQL."""

from __future__ import annotations

import argparse
from typing import Any

from diycloud.cli.output import as_json, printable, table
from diycloud.config import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `diycloud db` its verbs."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    check = verbs.add_parser("check", help="look for damage, orphans and values of the wrong kind")
    move = verbs.add_parser("move", help="move from the SQLite file to PostgreSQL, while the platform is down")
    move.add_argument("url", metavar="URL", help="the empty database, without a password: postgresql:///diycloud")
    move.add_argument(
        "--password-file", metavar="FILE", default="", help="its first line is the password, if one is needed"
    )
    move.add_argument(
        "--dry-run", action="store_true", help="tell what would be moved and what is wrong, change nothing"
    )
    move.add_argument("--repair", action="store_true", help="mend in the copy what PostgreSQL cannot hold")
    for verb in (check, move):
        verb.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run a verb; exit status 0 done, 6 something is wrong and nothing was moved."""
    from diycloud.core import moving

    paths = Paths(arguments.prefix)
    if arguments.verb == "check":
        report = moving.check(paths)
    else:
        report = moving.move(
            paths,
            arguments.url,
            password_file=arguments.password_file,
            dry_run=arguments.dry_run,
            repair=arguments.repair,
        )
    wrong = bool(report["damage"] or report["problems"])
    well = report["moved"] or not wrong
    if arguments.json:
        print(as_json({**report, "ok": well}))
    else:
        _show(report, moving_too=arguments.verb == "move", dry_run=getattr(arguments, "dry_run", False))
    return 0 if well else 6


def _show(report: dict[str, Any], *, moving_too: bool, dry_run: bool) -> None:
    for line in report["damage"]:
        print(f"damaged: {printable(line)}")
    for line in report["problems"]:
        print(printable(line))
    if report["more_problems"]:
        print(f"… and {report['more_problems']} more")
    if report["rows"]:
        print(table(("TABLE", "ROWS"), [(name, str(count)) for name, count in report["rows"].items()]))
    if report["moved"]:
        print(f"The database is in PostgreSQL. The old file is kept: {report['kept']}")
        print("Start the platform: `diycloud install`, which also lets the server reach it, or `diycloud up`.")
    elif report["damage"]:
        print("Put a good copy of the file back first (docs/how-to/postgresql.md).")
    elif report["problems"] and moving_too:
        print("Nothing was moved. Mend these rows, or say --repair.")
    elif moving_too and dry_run:
        print("This would be moved. Nothing was changed.")
