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
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from diycloud.users.models import ImportReport, ImportRow, Page, Status
from diycloud.web import templating
from diycloud.web.auditing import AUDIT_FILTERS

from . import preview_account, preview_notebooks, preview_tenancy
from .frame import HEADERS, form_of, page
from .samples import (
    ADA,
    ADMIN,
    AUDIT,
    CAPACITY,
    COLUMNS,
    DOMAINS,
    GROUPS,
    HEAD,
    HOST,
    KEYS,
    LONG,
    PLAN,
    POLICIES,
    SAMPLE,
    USERS,
    G,
    bulk,
    make_user,
    usage,
)

CHOICES = {
    "domains": [(one.name, f"{one.name} – {one.description}") for one in DOMAINS],
    "policies": [(one.name, f"{one.name} – {one.description}") for one in POLICIES],
}


async def sign_in(request: Request) -> Response:
    if request.method == "GET":
        return page(request, "sign_in.html", actor=None, next="/")
    form = await form_of(request)
    if form["username"] == "slow":
        return page(request, "sign_in.html", 429, actor=None, username="slow", retry_after=3)
    return page(
        request, "sign_in.html", 401, actor=None, username=form["username"], error="User name or password is not right."
    )


def home(request: Request) -> Response:
    found = preview_notebooks.found_for(request)
    if request.query_params.get("as") == "user":
        return page(
            request,
            "home.html",
            usage=usage(ADA, time.time()),
            disk={"used": None, "limit": 5 * G},
            ssh=f"ssh ada@{HOST}",
            notebooks=found["found"] if "all" in request.query_params else None,
            mark=found["mark"],
            containers="/portainer/" if "all" in request.query_params else None,
            folders=[GROUPS[0], GROUPS[2]],
            overview=None,
        )
    overview = {"total": 41, "active": 38, "inactive": 2, "pending": 1, "capacity": CAPACITY, "audit": AUDIT[:3]}
    overview["domain"] = ""
    if request.query_params.get("as") == "head":
        overview |= {"domain": HEAD.domain, "capacity": None}
        return page(
            request, "home.html", usage=usage(HEAD, time.time()), disk=None, ssh=f"ssh marie@{HOST}", notebooks=None,
            containers=None, folders=[], overview=overview,
        )  # fmt: skip
    if "empty" in request.query_params:
        overview |= {"total": 1, "audit": [], "capacity": None}
    return page(
        request, "home.html", usage=None, disk=None, ssh=None, notebooks=None, containers=None, overview=overview,
        folders=[],
    )  # fmt: skip


def users(request: Request) -> Response:
    asked = request.query_params
    query = {
        name: asked.get(name, "") for name in ("search", "status", "role", "domain", "group", "policy", "sort")
    } | {"descending": asked.get("descending") == "true"}
    word = query["search"].lower()
    found = [
        u
        for u in USERS
        if word in f"{u.username} {u.full_name} {u.email}".lower()
        and query["status"] in ("", "all", u.status)
        and query["role"] in ("", u.role)
        and query["domain"] in ("", u.domain)
        and (not query["group"] or query["group"] in u.groups)
        and query["policy"] in ("", u.policy)
    ]
    keys: dict[str, Any] = {"cpu": lambda u: u.limits.cpu, "last_login": lambda u: u.last_login or 0}
    sort = query["sort"] or "username"
    found.sort(key=keys.get(sort, lambda u: str(getattr(u, sort, ""))), reverse=bool(query["descending"]))
    at = int(asked.get("cursor", 0))
    rows = Page(
        found[at : at + 50], len(found), str(at + 50) if at + 50 < len(found) else None, str(at - 50) if at else None
    )
    return page(
        request,
        "users_rows.html" if "fragment" in asked else "users.html",
        everyone=len(found) if len(found) > len(rows.users) else 0,
        filter=urlencode({k: v for k, v in query.items() if v and k not in ("sort", "descending")}),
        page=rows,
        query=query,
        tenants=asked.get("as") != "head",
    )


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
    return page(
        request, "user_new.html", 422 if errors else 200, values=values, errors=errors, capacity=CAPACITY, **CHOICES
    )


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
        keys=KEYS if shown is ADA else [],
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
    values |= {"domain": ADA.domain, "groups": ", ".join(ADA.groups), "policy": ADA.policy, "shell": ADA.shell}
    return page(request, "user_edit.html", user=ADA, values=values, errors={}, capacity=CAPACITY, **CHOICES)


async def purge(request: Request) -> Response:
    errors = (
        {"confirm": "type ada, exactly"}
        if request.method == "POST" and (await form_of(request))["confirm"] != "ada"
        else {}
    )
    return page(request, "purge.html", 422 if errors else 200, plan=PLAN, values={}, errors=errors, trash_hours=24)


async def import_(request: Request) -> Response:
    if request.method == "GET" and "stage" not in request.query_params:
        return page(request, "import.html", stage="form", errors={}, csv="", update=False, columns=COLUMNS)
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
            update=False,
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
    shown = {
        "report": ImportReport(not done, rows, len(rows) - bad if done else 0, bad),
        "table": {"columns": columns, "rows": cells},
        "csv": text,
        "update": False,
        "json": False,
    }
    if not done:
        return page(request, "import.html", stage="preview", **shown)
    return running(request, shown)


def running(request: Request, shown: dict[str, Any]) -> Response:
    """The page as it has grown; with `half`, as it is while the import is under way."""
    whole = bytes(page(request, "import.html", stage="running", rows=1_000, gap="\0").body)
    head, _, tail = whole.partition(b"\0")
    told = [page(request, "import_progress.html", done=n, rows=1_000, username=f"user{n}").body for n in (1, 470)]
    passwords = "username,password\r\nada,marble-otter-violet-comet\r\n"
    report = page(request, "import_report.html", stage="result", passwords_csv=passwords, **shown).body
    parts = [head, *told, b"</section>", b"" if "half" in request.query_params else report, tail]
    return Response(b"".join(bytes(part) for part in parts), 200, HEADERS, "text/html; charset=utf-8")


async def change(request: Request) -> Response:
    """The page of changes to many; what is asked for is also taken from the address, to be looked at."""
    from diycloud.web.choosing import ASKS, VERBS

    form = dict(request.query_params)
    names = [user.username for user in (LONG, *USERS[:11])]
    if request.method == "POST":
        async with request.form(max_fields=250) as sent:
            form |= {key: value for key, value in sent.items() if isinstance(value, str)}
            names = [str(name) for name in sent.getlist("user")]
    verb = form.get("do", "disable")
    asked = ASKS.get(verb)
    ready = asked is None or form.get(asked)
    shown: dict[str, Any] = {"verb": verb, "verbs": VERBS, "names": names, "values": form}
    errors = {asked: "is needed"} if asked in form and not ready else {}
    policies = [(one.name, one.name) for one in POLICIES]
    if not ready:
        return page(
            request, "bulk.html", 422 if errors else 200, stage="ask", errors=errors, policies=policies, **shown
        )
    report = bulk(names, verb, dry_run="confirm" not in form)
    rows = {"report": report, "rows": report.rows, "more": 9_500 if "more" in form else 0}
    if report.dry_run:
        return page(request, "bulk.html", stage="preview", **shown, **rows)
    whole = bytes(page(request, "bulk.html", stage="running", gap="\0", **shown).body)
    head, _, tail = whole.partition(b"\0")
    told = page(request, "bulk_progress.html", done=len(names) // 2, rows=len(names), username=names[0]).body
    done = page(request, "bulk_report.html", stage="done", broken="", **shown, **rows).body
    parts = [head, told, b"</section>", b"" if "half" in form else done, tail]
    return Response(b"".join(bytes(part) for part in parts), 200, HEADERS, "text/html; charset=utf-8")


def audit(request: Request) -> Response:
    query = {name: request.query_params.get(name, "") for name in AUDIT_FILTERS}
    found = [
        row for row in AUDIT if all(not value or getattr(row, name, value) == value for name, value in query.items())
    ]
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
            *preview_account.ROUTES,
            *preview_notebooks.ROUTES,
            Route("/users", users),
            Route("/new-user", new_user, methods=both),
            Route("/import", import_, methods=both),
            Route("/audit", audit),
            Route("/components", components),
            Route("/change-users", change, methods=both),
            *preview_tenancy.ROUTES,
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
