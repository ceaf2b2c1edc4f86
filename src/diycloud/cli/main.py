"""`diycloud`: the command line.

`diycloud --help` must answer at once, so nothing is imported before it is known to be needed: the options of a noun's
verbs are made of the actions' declarations only when that noun is asked for.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from diycloud import __version__

if TYPE_CHECKING:
    from diycloud.errors import DiyCloudError

EXIT = {
    "invalid-input": 2,
    "unauthenticated": 3,
    "second-factor-needed": 3,
    "permission-denied": 4,
    "proof-needed": 4,
    "not-found": 5,
    "conflict": 6,
    "unsupported": 7,
    "host-error": 8,
    "unavailable": 9,
    "too-many-requests": 10,
    "precondition-failed": 11,
}

NOUNS = {
    "user": "create, list, change, disable, delete, purge and import users",
    "group": "create and remove groups, their members and shared folders",
    "domain": "tenants: create, list, change and remove domains",
    "policy": "default and largest limits; apply them to a user",
    "key": "SSH keys: list, add and remove them",
    "session": "who is signed in: list, show and end sessions; who must wait",
    "token": "API tokens for scripts: create, list and end them",
    "app": "applications that sign people in through the platform (OpenID Connect)",
    "factor": "second factors: an app's codes, recovery codes; take somebody's away",
    "passkey": "rename and remove your passkeys",
    "limits": "change a user's limits, in force at once",
    "usage": "what a user uses now",
    "notebook": "notebook servers: list, start and stop them",
    "audit": "who did what",
    "host": "what the host has and what is promised",
    "account": "your own password, and the applications that know you",
}
SESSION = {
    "login": "use another server from here: sign in at its address",
    "logout": "sign out there",
    "whoami": "who you are, and on which server",
}
PLATFORM = {
    "install": "install or repair the platform on this machine",
    "uninstall": "take the platform off this machine",
    "up": "start the platform",
    "down": "stop the platform; what users run goes on",
    "status": "what runs, and the address",
    "doctor": "check the machine and the platform, with what to do",
    "config": "show and check the settings",
    "metrics": "what the server counts, for Prometheus",
    "jupyter": "notebooks: set them up, look after them, shared environments, backups",
    "db": "check the database, or move it to PostgreSQL",
    "trash": "what purges left behind: list it, empty it",
    "completion": "print a completion script for bash",
}
EPILOG = """\
Every command that is not about the platform itself takes --json for programs, and --help. On the server, root needs no
sign-in; anybody else, anywhere, is who `diycloud login` signed in.
Exit status: 0 done; 2 invalid input, 3 not signed in, 4 not allowed, 5 not found, 6 conflict, 7 unsupported,
8 the host refused, 9 a part is down, 10 too often, 11 changed meanwhile, 1 anything else.
"""
COMMANDS = {**NOUNS, **SESSION, **PLATFORM}
_WITH_VALUE = ("--prefix", "--server", "--as")


class Help(argparse.RawDescriptionHelpFormatter):
    """argparse's help with room for the options' names."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(100, shutil.get_terminal_size().columns))


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors about commands and verbs say what was probably meant, or where they are listed."""

    def error(self, message: str) -> NoReturn:
        import difflib
        import re

        unknown = re.search(r"argument (COMMAND|VERB): invalid choice: '(.*)' \(choose from (.*)\)\Z", message)
        if unknown:
            there = re.findall(r"[a-z][a-z-]*", unknown[3])
            close = difflib.get_close_matches(unknown[2], there, n=1)
            advice = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(there)}."
            message = f"there is no {unknown[2]!r}. {advice}"
        elif missing := re.search(r"arguments are required: (COMMAND|VERB)\Z", message):
            message = f"a {missing[1].lower()} is missing; `{self.prog} --help` lists them"
        super().error(message)


def build_parser(wanted: str, verb: str = "") -> argparse.ArgumentParser:
    """Return the parser, with the options of one noun or platform verb only. verb: the noun's only one that is needed."""
    parser = Parser(
        prog="diycloud",
        description="One account, one sign-in and one budget for everything a person runs on this server.",
        epilog=EPILOG,
        formatter_class=Help,
    )
    parser.add_argument("--version", action="version", version=f"diycloud {__version__}")
    parser.add_argument("--prefix", default="/", help=argparse.SUPPRESS)
    parser.add_argument("--server", metavar="URL", help="the server to ask, where you are signed in (DIYCLOUD_URL)")
    parser.add_argument("--as", metavar="NAME", dest="on_behalf_of", help="act on behalf of a user; both are audited")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, text in COMMANDS.items():
        description = text[0].upper() + text[1:] + "."
        sub = commands.add_parser(name, help=text, description=description, formatter_class=Help)
        if name != wanted:
            continue
        if name in NOUNS:
            from diycloud.cli.verbs import add_verbs

            add_verbs(sub, name, verb)
        elif name in SESSION:
            from diycloud.cli.login import add_options

            add_options(sub, name)
        else:
            from diycloud.cli.platform import add_options

            add_options(sub, name)
    return parser


def _command(words: list[str]) -> tuple[str, str]:
    """Return the first two words that are neither an option nor a global option's value: noun and verb, as far as there are."""
    rest, found = iter(words), []
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            found.append(word)
    return (*found, "", "")[0], (*found, "", "")[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(*_command(words))
    arguments = parser.parse_args(words)
    if arguments.command in PLATFORM and (arguments.server or arguments.on_behalf_of):
        parser.error(f"{arguments.command} is about this machine: it takes no --server and no --as")
    from diycloud.errors import DiyCloudError  # its parts take longer to load than the help takes to print

    try:
        return int(arguments.run(arguments) or 0)
    except DiyCloudError as error:
        return report(error, as_json=getattr(arguments, "json", False))
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. What was begun on the server goes on there.\n")
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader has seen enough (`| head`)
        return 0


def report(error: DiyCloudError, *, as_json: bool) -> int:
    """Print an error, every field at fault in a line of its own; return the exit status."""
    from diycloud.cli.output import colour, printable

    errors = getattr(error, "errors", ())
    if as_json:
        import json

        body: dict[str, object] = {"code": error.code, "message": error.message, "hint": error.hint}
        body["errors"] = [{"field": e.field, "message": e.message} for e in errors]
        sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=False) + "\n")
        return EXIT.get(error.code, 1)
    mark = colour("diycloud:", "red", sys.stderr)
    if errors:
        sys.stderr.write(f"{mark} nothing was changed:\n")
        for found in errors:
            sys.stderr.write(f"  {printable(found.field)}: {printable(found.message)}\n")
    else:
        lines = [printable(line) for line in error.message.splitlines() or [""]]
        sys.stderr.write(f"{mark} " + "\n  ".join(lines) + "\n")
    if error.hint:
        sys.stderr.write(f"  {printable(error.hint)}\n")
    return EXIT.get(error.code, 1)


if __name__ == "__main__":
    sys.exit(main())
