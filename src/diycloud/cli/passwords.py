"""Where a password comes from: a prompt, standard input or a file; the bare argument only for old scripts' sake."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from diycloud.errors import InvalidInput

_LABELS = {"current": "present password", "code": "code of the second factor"}


def add_password(parser: argparse.ArgumentParser, name: str) -> None:
    """Give a parser the options of a secret field: --NAME and --NAME-file."""
    text = f"ask for the {_label(name)}; with - read one line of standard input"
    parser.add_argument(f"--{name}", nargs="?", const="", metavar="-", help=text)
    parser.add_argument(f"--{name}-file", metavar="FILE", help="read it from a file's first line")


def given_password(arguments: argparse.Namespace, name: str, *, needed: bool = False, again: bool = True) -> str | None:
    """Return the secret that a parser's options ask for, None for none. needed: without an option, ask at the terminal."""
    given, file = getattr(arguments, name), getattr(arguments, f"{name}_file")
    if needed and given is None and file is None:
        given = ""
    return read_password(given, file, name, again=again)


def read_password(given: str | None, file: str | None, name: str = "password", *, again: bool = True) -> str | None:
    """Return the password asked for, None if none was.

    given: None no option, "" the option alone (prompt), "-" standard input, else the password itself, which is wiped
    from the process's title at once: everybody on the host can read that. again: ask twice, for a new one.
    """
    if given is not None and file is not None:
        raise InvalidInput("There are two passwords.", f"Give --{name} or --{name}-file.")
    if file is not None:
        try:
            return _first_line(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidInput(f"{file} cannot be read: {error.strerror}.") from None
    if given == "-":
        return _first_line(sys.stdin.readline())
    if given == "":
        return _prompt(name, again=again)
    if given is not None:
        wipe_arguments()
        sys.stderr.write(
            f"note: a password on the command line can be read by everybody on this host. Use --{name} -.\n"
        )
    return given


def _first_line(text: str) -> str:
    line = text.partition("\n")[0].removesuffix("\r")
    if not line:
        raise InvalidInput("The password is empty.")
    return line


def _label(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " "))


def _prompt(name: str, *, again: bool) -> str:
    import getpass

    if not sys.stdin.isatty():
        raise InvalidInput("There is no terminal to ask at.", f"Use --{name} - or --{name}-file FILE.")
    label = _label(name)
    first = getpass.getpass(f"{label[0].upper()}{label[1:]}: ")
    if again and first != getpass.getpass("Again: "):
        raise InvalidInput("The two are not the same.")
    return _first_line(first)


def wipe_arguments() -> None:
    """Overwrite the arguments in this process's memory, which is where ps reads them (proc(5), /proc/pid/cmdline).

    Bounded by what the kernel says about this very process; where it says nothing, nothing is done.
    """
    import ctypes

    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: fields 48 and 49
    except (OSError, ValueError, IndexError):
        return
    words = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    kept = len(words[0]) + 1  # the program's own name may stay
    if 0 < start + kept < end:
        ctypes.memset(start + kept, 0, end - start - kept)
