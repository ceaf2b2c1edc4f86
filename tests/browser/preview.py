"""The portal's pages with sample data, on a loopback port: to look at, and for the tests of the pages themselves.

`python -m tests.browser.preview [PORT]`, then http://127.0.0.1:PORT/. The header, the escaping and the static files
are those of the real server (web/templating.py); the data is made here, with the real models, and changes nothing.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from diycloud.users.models import ImportReport, ImportRow, Page, PurgePlan, Status, User
from diycloud.web import templating
from tests.browser.samples import (
    ADA,
    ADMIN,
    AUDIT,
    CAPACITY,
    COLUMNS,
    HOST,
    LONG,
    MONITOR,
    SAMPLE,
    USERS,
    G,
    make_user,
    usage,
)

JINJA = templating.environment()


def page(request: Request, name: str, code: int = 200, *, actor: User | None = ADMIN, **context: Any) -> Response:
    if actor:
        actor = {"user": ADA, "monitor": MONITOR}.get(request.query_params.get("as", ""), actor)
    frame = {"host": HOST, "version": "0.1.0", "actor": actor, "csrf": "sample-token"}
    text = JINJA.get_template(name).render(frame | {"flashes": []} | context)
    headers = {
        "Content-Security-Policy": templating.CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }
    return HTMLResponse(text, code, headers=headers)


async def form_of(request: Request) -> dict[str, str]:
    async with request.form() as form:
        return {key: value for key, value in form.items() if isinstance(value, str)}


async def sign_in(request: Request) -> Response:
    if request.method == "GET":
        return page(request, "sign_in.html", actor=None, next="/")
    form = await form_of(request)
    if form["username"] == "slow":
        return page(request, "sign_in.html", 429, actor=None, username="slow", retry_after=3)
    return page(
        request, "sign_in.html", 401, actor=None, username=form["username"], error="User name or password is not right."
    )


async def account(request: Request) -> Response:
    errors = {}
    if request.method == "POST":
        form = await form_of(request)
        if len(form["password"]) < 12:
            errors["password"] = "at least 12 characters"
        if form["password"] != form["again"]:
            errors["again"] = "the two are not the same"
    forced = "forced" in request.query_params
    return page(
        request, "change_password.html", 422 if errors else 200, actor=ADA, forced=forced, min_length=12, errors=errors
    )


def home(request: Request) -> Response:
    if request.query_params.get("as") == "user":
        return page(
            request,
            "home.html",
            usage=usage(ADA, time.time()),
            disk={"used": None, "limit": 5 * G},
            ssh=f"ssh ada@{HOST}",
            notebooks="/jupyter/" if "all" in request.query_params else None,
            containers="/portainer/" if "all" in request.query_params else None,
            overview=None,
        )
    overview = {"total": 41, "active": 38, "inactive": 2, "pending": 1, "capacity": CAPACITY, "audit": AUDIT[:3]}
    if "empty" in request.query_params:
        overview |= {"total": 1, "audit": [], "capacity": None}
    return page(
        request, "home.html", usage=None, disk=None, ssh=None, notebooks=None, containers=None, overview=overview
    )


def users(request: Request) -> Response:
    asked = request.query_params
    query = {name: asked.get(name, "") for name in ("search", "status", "role", "sort")} | {
        "descending": asked.get("descending") == "true"
    }
    word = query["search"].lower()
    found = [
        u
        for u in USERS
        if word in f"{u.username} {u.full_name} {u.email}".lower()
        and query["status"] in ("", "all", u.status)
        and query["role"] in ("", u.role)
    ]
    keys: dict[str, Any] = {"cpu": lambda u: u.limits.cpu, "last_login": lambda u: u.last_login or 0}
    sort = query["sort"] or "username"
    found.sort(key=keys.get(sort, lambda u: str(getattr(u, sort, ""))), reverse=bool(query["descending"]))
    at = int(asked.get("cursor", 0))
    rows = Page(
        found[at : at + 50], len(found), str(at + 50) if at + 50 < len(found) else None, str(at - 50) if at else None
    )
    return page(request, "users_rows.html" if "fragment" in asked else "users.html", page=rows, query=query)


async def new_user(request: Request) -> Response:
    values, errors = {"cpu": "1", "memory": "2G", "disk": "5G", "tasks": "512", "role": "user"}, {}
    if request.method == "POST":
        values = await form_of(request)
        if not values["username"].isascii() or not values["username"].islower():
            errors["username"] = "1–32 characters: a–z, 0–9, _ and -, starting with a letter or _"
        if values["email"] and "@" not in values["email"]:
            errors["email"] = "an address such as ada@example.org, in ASCII, at most 254 characters"
        if float(values["cpu"] or 0) > 8:
            errors["cpu"] = "the host has 8 cores"
        if not errors:
            made = make_user(0, username=values["username"], full_name=values["full_name"])
            return page(
                request,
                "user_created.html",
                kind="created",
                user=made,
                password="marble-otter-violet-comet",
                warnings=["Memory: 34G promised on a host of 32G."],
            )
    return page(request, "user_new.html", 422 if errors else 200, values=values, errors=errors, capacity=CAPACITY)


def user(request: Request) -> Response:
    name = request.path_params["name"]
    shown = {"gone": make_user(0, username="gone", status=Status.DELETED), "alan": ADMIN, LONG.username: LONG}.get(
        name, ADA
    )
    if name == "stuck":
        shown = make_user(
            0, status=Status.PENDING, settled=False, host_problem="useradd: cannot lock /etc/passwd; try again later."
        )
    return page(
        request,
        "user.html",
        user=shown,
        usage=None if shown is not ADA else usage(ADA, time.time()),
        disk={"used": None, "limit": 5 * G},
        audit=AUDIT,
    )


def edit(request: Request) -> Response:
    values = {
        "full_name": ADA.full_name,
        "email": ADA.email,
        "role": "user",
        "description": ADA.description,
        "cpu": "1.3",
        "memory": "2G",
        "disk": "5G",
        "tasks": "512",
    }
    return page(request, "user_edit.html", user=ADA, values=values, errors={}, capacity=CAPACITY)


async def purge(request: Request) -> Response:
    plan = PurgePlan("ada", Status.DELETED, 20000, "/home/ada", "3.2G", 18422, 4)
    errors = (
        {"confirm": "type ada, exactly"}
        if request.method == "POST" and (await form_of(request))["confirm"] != "ada"
        else {}
    )
    return page(request, "purge.html", 422 if errors else 200, plan=plan, errors=errors, trash_hours=24)


async def import_(request: Request) -> Response:
    if request.method == "GET" and "stage" not in request.query_params:
        return page(request, "import.html", stage="form", errors={}, csv="", columns=COLUMNS)
    text, confirmed = SAMPLE, False
    if request.method == "POST":
        async with request.form() as form:
            file = form.get("file")
            text = (await file.read()).decode() if file and not isinstance(file, str) else ""
            text, confirmed = text or str(form.get("csv") or ""), "confirm" in form
    if not text.strip():
        return page(
            request,
            "import.html",
            422,
            stage="form",
            errors={"file": "choose a file, or paste its text below"},
            csv="",
            columns=COLUMNS,
        )
    table = list(csv.reader(io.StringIO(text.strip())))
    rows, columns, cells = [], table[0], {}
    done = confirmed or request.query_params.get("stage") == "result"
    for line, row in enumerate(table[1:], 2):
        values, errors = dict(zip(columns, row, strict=False)), []
        if " " in values["username"]:
            errors.append(("username", "1–32 characters: a–z, 0–9, _ and -, starting with a letter or _"))
        if values.get("memory") == "lots":
            errors.append(("memory", "a size such as 512M or 2G, at least 16M"))
        if float(values.get("cpu") or 1) > 8:
            errors.append(("cpu", "the host has 8 cores"))
        rows.append(
            ImportRow(
                line, values["username"], "refused" if errors else "created" if done else "new", None, (), tuple(errors)
            )
        )
        cells[line] = row
    bad = sum(bool(row.errors) for row in rows)
    return page(
        request,
        "import.html",
        stage="result" if done else "preview",
        csv=text,
        table={"columns": columns, "rows": cells},
        report=ImportReport(not done, rows, len(rows) - bad if done else 0, bad),
        passwords_csv="username,password\r\nada,marble-otter-violet-comet\r\n",
    )


def audit(request: Request) -> Response:
    query = {name: request.query_params.get(name, "") for name in ("target", "actor", "action", "outcome")}
    found = [row for row in AUDIT if all(not value or getattr(row, name) == value for name, value in query.items())]
    return page(request, "audit.html", entries=found, query=query, next=895 if found else None)


def error(request: Request) -> Response:
    status = int(request.path_params["status"])
    actor = None if "out" in request.query_params else ADMIN
    return page(
        request,
        "error.html",
        status,
        actor=actor,
        status=status,
        message="There is no user 'bda'." if status == 404 else "",
        hint="",
        request_id="3f2a91c4",
    )


async def events(request: Request) -> Response:
    async def readings() -> AsyncIterator[bytes]:
        while True:
            now = usage(ADA, time.time() * 6)
            reading = {
                name: {"used": getattr(now, name).used, "limit": getattr(now, name).limit}
                for name in ("cpu", "memory", "tasks")
            }
            yield f"data: {json.dumps(reading | {'at': time.time()})}\n\n".encode()
            await asyncio.sleep(0.25)

    return StreamingResponse(readings(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def components(request: Request) -> Response:
    return page(request, "components.html")


def back(request: Request) -> Response:
    return RedirectResponse("/users/ada", 303)


def application() -> Starlette:
    both = ["GET", "POST"]
    return Starlette(
        routes=[
            Route("/", home),
            Route("/sign-in", sign_in, methods=both),
            Route("/account", account, methods=both),
            Route("/users", users),
            Route("/new-user", new_user, methods=both),
            Route("/import", import_, methods=both),
            Route("/audit", audit),
            Route("/components", components),
            Route("/users/{name}", user),
            Route("/users/{name}/edit", edit, methods=both),
            Route("/users/{name}/purge", purge, methods=both),
            Route("/users/{name}/{verb}", back, methods=["POST"]),
            Route("/sign-out", lambda r: RedirectResponse("/sign-in", 303), methods=["POST"]),
            Route("/events/usage", events),
            Route("/error/{status}", error),
            Mount("/static/{version}", StaticFiles(directory=templating.STATIC)),
        ]
    )


if __name__ == "__main__":
    uvicorn.run(
        application(),
        host="127.0.0.1",
        port=int(sys.argv[1]) if len(sys.argv) > 1 else 8090,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
