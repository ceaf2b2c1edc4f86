"""Where a password comes from: a prompt, standard input or a file; the bare argument only for old scripts' sake."""

from __future__ import annotations

import sys
from pathlib import Path

from diycloud.errors import InvalidInput


def read_password(given: str | None, file: str | None) -> str | None:
    """Return the password asked for, None if none was.

    given: None no option, "" the option alone (prompt), "-" standard input, else the password itself, which is wiped
    from the process's title at once: everybody on the host can read that.
    """
    if given is not None and file is not None:
        raise InvalidInput("There are two passwords.", "Give --password or --password-file.")
    if file is not None:
        try:
            return _first_line(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidInput(f"{file} cannot be read: {error.strerror}.") from None
    if given == "-":
        return _first_line(sys.stdin.readline())
    if given == "":
        return _prompt()
    if given is not None:
        wipe_arguments()
        sys.stderr.write(
            "note: a password on the command line can be read by everybody on this host. Use --password -.\n"
        )
    return given


def _first_line(text: str) -> str:
    line = text.partition("\n")[0].removesuffix("\r")
    if not line:
        raise InvalidInput("The password is empty.")
    return line


def _prompt() -> str:
    import getpass

    if not sys.stdin.isatty():
        raise InvalidInput("There is no terminal to ask at.", "Use --password - or --password-file FILE.")
    first = getpass.getpass("Password: ")
    if first != getpass.getpass("Again: "):
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
