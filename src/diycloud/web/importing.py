"""The import page: upload or paste, look at every row and error, then create, and see how far it is."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Any

import msgspec
from starlette.datastructures import UploadFile
from starlette.responses import Response

from diycloud.actions.parsing import Source, decode_json, fields_of
from diycloud.auth import proof
from diycloud.errors import DiyCloudError, InvalidInput
from diycloud.users.actions import CreateUser, ImportUsers
from diycloud.users.importing import ImportRefused
from diycloud.users.models import ImportReport
from diycloud.users.rows import read_table
from diycloud.web import streams
from diycloud.web.growing import GAP, growing
from diycloud.web.portal import Entry, Page

USUAL = ("username", "full_name", "email", "password", "role", "domain", "groups", "policy", "cpu", "memory", "disk")
"""Columns told first, in this order."""
SECRET = ("password", "password_hash")


class Sent(msgspec.Struct, frozen=True):
    """What the form holds. text: CSV, or JSON as an export has it."""

    text: str
    update: bool
    confirmed: bool

    @property
    def json(self) -> bool:
        return self.text.lstrip()[:1] in ("[", "{")

    def raw(self) -> dict[str, Any]:
        """Return the action's fields. Raises InvalidInput for what is no JSON, or no list of users."""
        return {**self._rows(), "update": self.update, "dry_run": not self.confirmed}

    def _rows(self) -> dict[str, Any]:
        if not self.json:
            return {"csv": self.text}
        users = decode_json(b'{"users":%s}' % self.text.strip().encode())["users"]
        if not isinstance(users, list) or not all(isinstance(user, dict) for user in users):
            raise InvalidInput('is JSON, but no list of users such as [{"username": "ada"}]')
        return {"users": users}


async def show_import(page: Page) -> Response:
    await page.check(ImportUsers)
    proof.require(page.visitor.actor)  # asked before anything is typed: rows may make administrators
    return _form(page, 200, {}, "", Sent("", update=False, confirmed=False))


def _form(page: Page, status: int, errors: dict[str, str], message: str, sent: Sent) -> Response:
    known = {field.name: field.help or field.rule for field in fields_of(CreateUser).values()}
    columns = [(name, known[name]) for name in (*USUAL, *(name for name in known if name not in USUAL))]
    return page.render(
        "import.html", status, stage="form", errors=errors, message=message, csv=sent.text, update=sent.update,
        columns=columns, section="users",
    )  # fmt: skip


async def import_users(page: Page) -> Response:
    """Show the preview; with `confirm`, create."""
    fields = page.sent("update", "confirm")
    sent = Sent("", bool(fields.get("update")), bool(fields.get("confirm")))
    try:
        sent = msgspec.structs.replace(sent, text=await _text(page))
    except InvalidInput as error:
        return _form(page, 422, {"file": error.message}, "", sent)
    page.kept = [("csv", sent.text), *((name, "true") for name in ("update", "confirm") if fields.get(name))]
    proof.require(page.visitor.actor)
    if not sent.text.strip():
        return _form(page, 422, {"csv": "is empty: choose a file or paste the rows"}, "", sent)

    async def work() -> ImportReport:
        return await page.run(ImportUsers, sent.raw(), Source.JSON)

    try:
        users = _users(sent)
        if sent.confirmed:
            rows, task = streams.begin(work)
            count = len(users["rows"]) if users else 0
            whole = page.text("import.html", stage="running", section="users", rows=count, gap=GAP, status=200)
            parts = growing(page, whole, "import_progress.html", count, rows, lambda: _end(page, sent, task))
            return page.stream(parts)
        return _preview(page, 200, await work(), sent)
    except ImportRefused as error:
        return _preview(page, 422, error.report, sent)
    except InvalidInput as error:
        return _form(page, 422, {"csv": error.message}, error.hint, sent)


async def _text(page: Page) -> str:
    assert page.form is not None
    upload = page.form.get("file")
    if isinstance(upload, UploadFile) and upload.filename:
        try:
            return (await upload.read()).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InvalidInput("is not UTF-8; save it as “CSV UTF-8”") from None
        finally:
            await upload.close()
    return page.sent("csv").get("csv", "")


def _preview(page: Page, status: int, report: ImportReport, sent: Sent) -> Response:
    notes = report.warnings
    return page.render("import.html", status, stage="preview", section="users", notes=notes, **_shown(report, sent))


def _shown(report: ImportReport, sent: Sent) -> dict[str, Any]:
    return {"report": report, "table": _users(sent), "csv": sent.text, "update": sent.update, "json": sent.json}


async def _end(page: Page, sent: Sent, task: asyncio.Task[ImportReport]) -> str:
    """Return what an import came to, as the page shows it."""
    try:
        report = await task
    except ImportRefused as error:  # it was in order when it was looked at
        return page.text("import_report.html", stage="preview", passwords_csv="", **_shown(error.report, sent))
    except DiyCloudError as error:
        return page.text("import_broken.html", message=str(error))
    except Exception:  # it is in the log; the page must not end in the middle
        return page.text("import_broken.html", message="Something broke; it is in the server’s log.")
    return page.text("import_report.html", stage="result", passwords_csv=passwords_csv(report), **_shown(report, sent))


def _users(sent: Sent) -> dict[str, Any] | None:
    """Return the cells to show beside the errors, passwords hidden; None where there is no table to show."""
    return _objects(sent) if sent.json else _table(sent.text)


def _table(text: str) -> dict[str, Any] | None:
    try:
        table = read_table(text)
    except DiyCloudError:
        return None
    return _cells(table.heading, table.rows)


def _objects(sent: Sent) -> dict[str, Any]:
    """Return the cells of a JSON list: a column for each field that some user has."""
    users = sent.raw()["users"]
    heading = list(dict.fromkeys(name for user in users for name in user))
    return _cells(heading, {n: [_cell(user.get(name)) for name in heading] for n, user in enumerate(users, 1)})


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _cells(heading: list[str], rows: dict[int, list[str]]) -> dict[str, Any]:
    hidden = {i for i, name in enumerate(heading) if name in SECRET}
    shown = {line: ["••••" if i in hidden and c else c for i, c in enumerate(cells)] for line, cells in rows.items()}
    return {"columns": heading, "rows": shown}


def passwords_csv(report: ImportReport) -> str:
    """Return the generated passwords as CSV text, empty if there are none."""
    rows = [(row.username, row.password) for row in report.rows if row.password]
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("username", "password"))
    writer.writerows(rows)
    return text.getvalue()


PAGES = (Entry("GET", "/import", show_import), Entry("POST", "/import", import_users))
