"""The import page: upload or paste, look at every row and error, then create."""

from __future__ import annotations

import csv
import io
from typing import Any

from starlette.datastructures import UploadFile
from starlette.responses import Response

from diycloud.actions.parsing import fields_of
from diycloud.errors import DiyCloudError, InvalidInput
from diycloud.users.actions import CreateUser, ImportUsers
from diycloud.users.importing import ImportRefused
from diycloud.users.models import ImportReport
from diycloud.users.rows import read_table
from diycloud.web.portal import Entry, Page


async def show_import(page: Page) -> Response:
    await page.check(ImportUsers)
    return _form(page, 200, {}, "", "")


def _form(page: Page, status: int, errors: dict[str, str], message: str, text: str) -> Response:
    columns = [(field.name, field.help or field.rule) for field in fields_of(CreateUser).values()]
    return page.render(
        "import.html", status, stage="form", errors=errors, message=message, csv=text, columns=columns, section="users"
    )


async def import_users(page: Page) -> Response:
    """Show the preview; with `confirm`, create."""
    try:
        text = await _text(page)
    except InvalidInput as error:
        return _form(page, 422, {"file": error.message}, "", "")
    if not text.strip():
        return _form(page, 422, {"csv": "is empty: choose a file or paste the rows"}, "", "")
    confirmed = bool(page.sent("confirm").get("confirm"))
    try:
        report = await page.run(ImportUsers, {"csv": text, "dry_run": "false" if confirmed else "true"})
    except ImportRefused as error:
        return _report(page, 422, "preview", error.report, text)
    except InvalidInput as error:
        return _form(page, 422, {"csv": error.message}, error.hint, text)
    return _report(page, 200, "result" if confirmed else "preview", report, text)


async def _text(page: Page) -> str:
    assert page.form is not None
    upload = page.form.get("file")
    if isinstance(upload, UploadFile) and upload.filename:
        try:
            return (await upload.read()).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InvalidInput("is not UTF-8; save it as “CSV UTF-8”") from None
    return page.sent("csv").get("csv", "")


def _report(page: Page, status: int, stage: str, report: ImportReport, text: str) -> Response:
    context: dict[str, Any] = {"stage": stage, "report": report, "table": _table(text), "csv": text}
    if stage == "result":
        context["passwords_csv"] = passwords_csv(report)
    return page.render("import.html", status, section="users", notes=report.warnings, **context)


def _table(text: str) -> dict[str, Any] | None:
    """Return the cells to show beside the errors, passwords hidden."""
    try:
        table = read_table(text)
    except DiyCloudError:
        return None
    hidden = {i for i, name in enumerate(table.heading) if name == "password"}
    rows = {
        line: ["••••" if i in hidden and c else c for i, c in enumerate(cells)] for line, cells in table.rows.items()
    }
    return {"columns": table.heading, "rows": rows}


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
