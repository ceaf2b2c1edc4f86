"""The preview's pages of groups, domains and policies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from diycloud.groups.models import Group, GroupPlan

from .frame import form_of, page
from .samples import DOMAINS, GROUPS, POLICIES, USERS

CHOICES = {
    "domains": [(one.name, f"{one.name} – {one.description}") for one in DOMAINS],
    "policies": [(one.name, f"{one.name} – {one.description}") for one in POLICIES],
}
NAME = "1–32 characters: a–z, 0–9, _ and -, starting with a letter or _"


def _named(found: list[Any], request: Request) -> Any:
    return next(one for one in found if one.name == request.path_params["name"])


async def _sent(request: Request) -> tuple[dict[str, str], dict[str, str]]:
    """Return what a form holds, and what is wrong with its name."""
    if request.method == "GET":
        return {}, {}
    form = await form_of(request)
    name = form.get("name", "a")
    return form, {} if name.isascii() and name.islower() else {"name": NAME}


def groups(request: Request) -> Response:
    asked = request.query_params
    query = {name: asked.get(name, "") for name in ("search", "domain")}
    found = [one for one in GROUPS if query["search"] in one.name and query["domain"] in ("", one.domain)]
    if "empty" in asked:
        found = []
    shown = SimpleNamespace(groups=found, next="optics" if found else None)
    return page(request, "groups.html", found=shown, query=query, not_first=bool(asked.get("after")))


async def new_group(request: Request) -> Response:
    values, errors = await _sent(request)
    code = 422 if errors else 200
    return page(request, "group_new.html", code, values=values, errors=errors, message="", domains=CHOICES["domains"])


async def group(request: Request) -> Response:
    found: Group = _named(GROUPS, request)
    members = [user.username for user in USERS[: found.members]]
    values = {"description": found.description, "disk": found.disk or ""}
    errors = {"members": "there is no user carol here"} if request.method == "POST" else {}
    code = 422 if errors else 200
    return page(request, "group.html", code, group=found, members=members, values=values, errors=errors, message="")


def remove_group(request: Request) -> Response:
    found: Group = _named(GROUPS, request)
    plan = GroupPlan(
        found.name, found.gid, found.folder or "/srv/diycloud/groups/" + found.name, "1.4G", 1_204, found.members
    )
    errors = {"confirm": "is not the name"} if request.method == "POST" else {}
    return page(request, "group_remove.html", 422 if errors else 200, plan=plan, errors=errors, trash_hours=24)


def domains(request: Request) -> Response:
    shown = [DOMAINS[2]] if "empty" in request.query_params else DOMAINS
    return page(request, "domains.html", domains=shown)


async def domain(request: Request) -> Response:
    values, errors = await _sent(request)
    found = _named(DOMAINS, request) if "name" in request.path_params else None
    usual = {"policy": found.policy if found else "default", "description": found.description if found else ""}
    return page(
        request, "domain.html", 422 if errors else 200, domain=found, values=usual | values, errors=errors, message="",
        policies=CHOICES["policies"],
    )  # fmt: skip


def policies(request: Request) -> Response:
    return page(request, "policies.html", policies=POLICIES[:1] if "empty" in request.query_params else POLICIES)


async def policy(request: Request) -> Response:
    values, errors = await _sent(request)
    found = _named(POLICIES, request) if "name" in request.path_params else None
    usual = {"cpu": "1", "memory": "2G", "disk": "5G", "tasks": "512", "max_gpu": "true"}
    if found:
        usual |= {"description": found.description, "max_memory": found.maxima.memory or ""}
    return page(
        request, "policy.html", 422 if errors else 200, policy=found, values=usual | values, errors=errors, message=""
    )


def back(request: Request) -> Response:
    return RedirectResponse("/groups", 303)


_BOTH = ["GET", "POST"]
ROUTES = [
    Route("/groups", groups),
    Route("/new-group", new_group, methods=_BOTH),
    Route("/groups/{name}", group, methods=_BOTH),
    Route("/groups/{name}/remove", remove_group, methods=_BOTH),
    Route("/groups/{name}/{verb}", back, methods=["POST"]),
    Route("/domains", domains),
    Route("/new-domain", domain, methods=_BOTH),
    Route("/domains/{name}", domain, methods=_BOTH),
    Route("/policies", policies),
    Route("/new-policy", policy, methods=_BOTH),
    Route("/policies/{name}", policy, methods=_BOTH),
]
