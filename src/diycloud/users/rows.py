"""Files of users taken apart: CSV and JSON to rows, each parsed or with all that is wrong in it.

Columns are CreateUser's fields by name, those of Kept, and what an export tells beside them, which is left out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from diycloud.actions.fields import DiskSize, Flag
from diycloud.actions.parsing import Source, fields_of, parse_action
from diycloud.auth.keys import MAX_KEYS, parse_key
from diycloud.errors import FieldError, InvalidInput
from diycloud.users.actions import CreateUser
from diycloud.users.models import Allocation, ImportRow, Status
from diycloud.users.placing import Place

MAX_ROWS = 10_000
MAX_COLUMNS = 200
UNSET = msgspec.UNSET
IGNORED = ("uid", "sudo", "last_login")
"""Columns of an export that say something of the machine it comes from: the agent chooses UIDs, root grants sudo there."""

_HASH = (
    r"\A(\$argon2id\$v=19\$m=[0-9]{1,6},t=[1-9],p=1\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}"
    r"|sha256\$[0-9a-f]{64}|PLACEHOLDER)\Z"
)
"""What auth/passwords.py verifies: argon2id as it makes it, an old database's sum, and what matches nothing."""


Time = Annotated[
    str,
    msgspec.Meta(
        pattern=r"\A[0-9]{4}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]\Z",
        extra={"rule": "a time such as 2026-11-21 08:00:00, in UTC"},
    ),
]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What an export tells of a user beside CreateUser's fields, and import restores.

    disk_hard: None for twice the disk limit. ssh_keys: lines as in authorized_keys, without options. uuid, created_at: for
    administrators of everything; portal_only, password_hash and when that was set: for root.
    """

    status: Annotated[Status, msgspec.Meta(extra={"rule": f"one of: {', '.join(Status)}"})] | msgspec.UnsetType = UNSET
    disk_hard: DiskSize | None = None
    ssh_keys: Annotated[
        tuple[str, ...],
        msgspec.Meta(max_length=MAX_KEYS, extra={"rule": f"at most {MAX_KEYS} public keys, a line each"}),
    ] = ()
    portal_only: Flag = False
    uuid: (
        Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z", extra={"rule": "32 digits 0–9 and a–f"})]
        | msgspec.UnsetType
    ) = UNSET
    created_at: Time | msgspec.UnsetType = UNSET
    password_hash: (
        Annotated[str, msgspec.Meta(pattern=_HASH, extra={"rule": "a hash as an export has it", "secret": True})]
        | msgspec.UnsetType
    ) = UNSET
    password_changed_at: Time | msgspec.UnsetType = UNSET


_ONLY_NEW = ("status", "disk_hard", "ssh_keys")
"""What a row gives a new user, and has actions of its own for one who exists."""


class Candidate(NamedTuple):
    """One row of the file: what it asks for, or what is wrong with it. given: what is said of the user, by column.

    source: how the values are written. exists: there is such a user, whom the row is to change.
    """

    line: int
    username: str
    action: CreateUser | None
    errors: tuple[FieldError, ...] = ()
    password: str = ""
    warnings: tuple[str, ...] = ()
    where: Place | None = None
    allocation: Allocation = Allocation()
    kept: Kept = Kept()
    given: Mapping[str, Any] = {}
    source: Source = Source.TEXT
    exists: bool = False

    @property
    def wanted(self) -> CreateUser:
        """What a row without faults asks for."""
        assert self.action is not None
        return self.action

    def row(self, outcome: str) -> ImportRow:
        own = self.action is not None and self.action.password is not UNSET
        errors = tuple((error.field, error.message) for error in self.errors)
        shown = self.password if outcome in ("created", "pending") and not own else None
        return ImportRow(self.line, self.username, outcome, shown or None, self.warnings, errors)


class Table(NamedTuple):
    """A CSV text taken apart. heading: column names in lower case; rows: number of the line a row starts on → cells."""

    heading: list[str]
    rows: dict[int, list[str]]


def read_table(text: str) -> Table:
    """Take a CSV text apart; commas, semicolons or tabs between the cells. Empty lines are left out.

    Raises InvalidInput for what is no CSV, and for more than MAX_ROWS rows.
    """
    text = text.removeprefix("\ufeff")
    delimiter = max((",", ";", "\t"), key=text.partition("\n")[0].count)  # Excel writes what its country uses
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    rows: dict[int, list[str]] = {}
    try:
        heading = [name.strip().lower() for name in next(reader, [])]
        start = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows[start] = cells
            start = reader.line_num + 1
            if len(rows) > MAX_ROWS:
                raise _no_table("csv", f"more than {MAX_ROWS} rows", "Split the file.")
    except csv.Error as error:
        raise _no_table(
            "csv", f"line {reader.line_num}: {error}", "Put double quotes around text with commas."
        ) from None
    return Table(heading, rows)


def _no_table(field: str, message: str, hint: str) -> InvalidInput:
    return InvalidInput(f"{field}: {message}.", hint, errors=[FieldError(field, message)])


def parse_csv(text: str) -> list[Candidate]:
    """Return the rows of a CSV text, each parsed or with all that is wrong in it.

    Raises InvalidInput if there is no usable heading: nothing can be said of single rows then.
    """
    table = read_table(text)
    _check_heading(table.heading)
    return [_of_cells(line, cells, table.heading) for line, cells in table.rows.items()]


def parse_objects(users: Sequence[Mapping[str, Any]]) -> list[Candidate]:
    """Return the rows of a JSON list of users, counted from 1; null means the default. Raises InvalidInput for too many."""
    if len(users) > MAX_ROWS:
        raise _no_table("users", f"more than {MAX_ROWS} rows", "Split the list.")
    return [_candidate(number, dict(one), Source.JSON) for number, one in enumerate(users, 1)]


def ignored_columns(found: Iterable[Candidate]) -> tuple[str, ...]:
    """Return warnings that name what rows say and import leaves out: always, or of users who exist."""
    found = list(found)
    told = []
    for names, rows, words in (
        (IGNORED, found, "Left out, as it is this machine's to say"),
        (_ONLY_NEW, [c for c in found if c.exists], "Left as they are for users who exist"),
    ):
        said = [name for name in names if any(c.given.get(name) not in (None, "", False, "false", []) for c in rows)]
        told += [f"{words}: {', '.join(said)}."] if said else []
    return tuple(told)


def _check_heading(heading: list[str]) -> None:
    known = (*fields_of(CreateUser), *fields_of(Kept), *IGNORED)
    if len(heading) > MAX_COLUMNS:
        raise _no_table("line 1", f"more than {MAX_COLUMNS} columns", "The first line names the columns.")
    errors = [
        FieldError(f"line 1, column {number}", f"{name[:60]!r} is no column; there are: {', '.join(known)}")
        for number, name in enumerate(heading, 1)
        if name not in known
    ]
    twice = sorted({name for name in heading if heading.count(name) > 1})
    errors += [FieldError(f"line 1, column {name}", "is there twice") for name in twice]
    if "username" not in heading:
        errors.append(FieldError("line 1", "a heading with the column username is needed"))
    if errors:
        raise InvalidInput.of(errors)


def _of_cells(line: int, cells: list[str], heading: list[str]) -> Candidate:
    raw = {name: cell.strip() if name != "password" else cell for name, cell in zip(heading, cells, strict=False)}
    if len(cells) != len(heading):
        message = f"{len(cells)} cells where the heading has {len(heading)}"
        return Candidate(line, raw.get("username", "")[:60], None, (FieldError("row", message),))
    said: dict[str, Any] = {name: cell for name, cell in raw.items() if cell}
    if "ssh_keys" in said:
        said["ssh_keys"] = said["ssh_keys"].splitlines()
    return _candidate(line, said, Source.TEXT)


def _candidate(line: int, raw: dict[str, Any], source: Source) -> Candidate:
    name = raw.get("username")
    found = Candidate(line, name[:60] if isinstance(name, str) else "", None, given=raw, source=source)
    said = {column: value for column, value in raw.items() if value is not None and column not in IGNORED}
    kept, errors = Kept(), list[FieldError]()
    try:
        kept = parse_action(Kept, {c: said.pop(c) for c in fields_of(Kept) if c in said}, source)
        kept = msgspec.structs.replace(kept, ssh_keys=tuple(parse_key(line).line for line in kept.ssh_keys))
    except InvalidInput as error:
        errors += error.errors
    try:
        action = parse_action(CreateUser, said, source)
    except InvalidInput as error:
        errors += error.errors
    if errors:
        return found._replace(errors=tuple(errors))
    return found._replace(action=action, kept=kept)
