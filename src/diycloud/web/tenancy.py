"""The pages of groups, domains and policies."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from diycloud.actions.action import Action, Permission
from diycloud.actions.reach import scope_of
from diycloud.actions.roles import Scope
from diycloud.domains import repository
from diycloud.domains.actions import CreateDomain, ListDomains, ModifyDomain, RemoveDomain, ShowDomain
from diycloud.errors import Conflict, InvalidInput
from diycloud.groups.actions import (
    AddMembers,
    CreateGroup,
    ListGroups,
    ModifyGroup,
    PreviewRemoveGroup,
    RemoveGroup,
    RemoveMembers,
    ShowGroup,
)
from diycloud.policies.actions import CreatePolicy, ListPolicies, ModifyPolicy, RemovePolicy, ShowPolicy
from diycloud.web.portal import Entry, Page, field_errors

GROUP_FIELDS = ("name", "domain", "description", "disk", "members")
DOMAIN_FIELDS = ("name", "description", "policy")
LIMITS = ("cpu", "memory", "disk", "tasks")
POLICY_FIELDS = ("name", "description", *LIMITS, *(f"max_{name}" for name in LIMITS), "max_sessions")
FLAGS = ("gpu", "max_gpu", "second_factor")
CLEARABLE = frozenset({"description", "disk", "max_sessions", *(f"max_{name}" for name in LIMITS)})


async def _names(page: Page, action: type[Action[Any]], kind: str) -> list[tuple[str, str]]:
    """Return the choices of a select field: every domain or policy that the one who looks may see."""
    found = await page.run(action, {})
    return [(one.name, one.name + (f" – {one.description}" if one.description else "")) for one in getattr(found, kind)]


async def choices(page: Page) -> dict[str, Any]:
    """Return what the forms of users and groups offer as domain and policy."""
    return {
        "domains": await _names(page, ListDomains, "domains"),
        "policies": await _names(page, ListPolicies, "policies"),
    }


async def several_domains(page: Page) -> bool:
    """Tell whether there are domains to tell apart for the one who looks."""
    everywhere = scope_of(page.visitor.actor, Permission.USERS_READ) is Scope.ALL
    return everywhere and await page.portal.dispatcher.services.database.read(repository.count) > 1


# -- groups


async def list_groups(page: Page) -> Response:
    query = page.request.query_params
    raw = {name: query[name] for name in ("search", "domain", "after") if query.get(name)}
    found = await page.run(ListGroups, raw)
    shown = {name: raw.get(name, "") for name in ("search", "domain")}
    return page.render("groups.html", found=found, query=shown, not_first=bool(raw.get("after")), section="groups")


async def show_new_group(page: Page) -> Response:
    await page.check(CreateGroup)
    return await _new_group(page, 200, {}, {}, "")


async def _new_group(page: Page, status: int, values: dict[str, str], errors: dict[str, str], message: str) -> Response:
    domains = await _names(page, ListDomains, "domains")
    return page.render(
        "group_new.html", status, values=values, errors=errors, message=message, domains=domains, section="groups"
    )


async def create_group(page: Page) -> Response:
    sent = page.sent(*GROUP_FIELDS)
    try:
        made = await page.run(CreateGroup, {name: value for name, value in sent.items() if value.strip()})
    except (InvalidInput, Conflict) as error:
        return await _new_group(page, 422, sent, *field_errors(error, set(GROUP_FIELDS)))
    notes = [("warn", text) for text in made.warnings]
    return page.redirect(f"/groups/{made.group.name}", ("ok", f"The group {made.group.name} is there."), *notes)


async def show_group(page: Page) -> Response:
    return await _group(page, 200, {}, {}, "")


async def _group(page: Page, status: int, values: dict[str, str], errors: dict[str, str], message: str) -> Response:
    found = await page.run(ShowGroup, {"name": page.path["name"]})
    usual = {"description": found.group.description, "disk": found.group.disk or ""}
    return page.render(
        "group.html", status, group=found.group, members=found.members, values={**usual, **values}, errors=errors,
        message=message, section="groups",
    )  # fmt: skip


async def edit_group(page: Page) -> Response:
    sent = page.sent("description", "disk")
    raw = {name: value or None for name, value in sent.items()}
    return await _change_group(page, ModifyGroup, raw, sent, "The changes are kept.")


async def add_members(page: Page) -> Response:
    sent = page.sent("members")
    return await _change_group(page, AddMembers, sent, sent, "They are members now, from their next sign-in on.")


async def remove_member(page: Page) -> Response:
    sent = page.sent("members")
    return await _change_group(page, RemoveMembers, sent, sent, f"{sent.get('members', '')} is no member any more.")


async def _change_group(
    page: Page, action: type[Action[Any]], raw: dict[str, Any], sent: dict[str, str], text: str
) -> Response:
    name = page.path["name"]
    try:
        changed = await page.run(action, {"name": name, **raw})
    except (InvalidInput, Conflict) as error:
        return await _group(page, 422, sent, *field_errors(error, set(GROUP_FIELDS)))
    return page.redirect(f"/groups/{name}", ("ok", text), *[("warn", warning) for warning in changed.warnings])


async def show_remove_group(page: Page) -> Response:
    return await _remove_group(page, 200, {})


async def _remove_group(page: Page, status: int, errors: dict[str, str]) -> Response:
    plan = await page.run(PreviewRemoveGroup, {"name": page.path["name"]})
    hours = page.portal.dispatcher.services.settings.agent.trash_hours
    return page.render("group_remove.html", status, plan=plan, errors=errors, trash_hours=hours, section="groups")


async def remove_group(page: Page) -> Response:
    name = page.path["name"]
    if page.sent("confirm").get("confirm", "").strip() != name:
        return await _remove_group(page, 422, {"confirm": "is not the name"})
    await page.run(RemoveGroup, {"name": name})
    return page.redirect("/groups", ("ok", f"The group {name} is removed; its folder goes to the trash."))


# -- domains


async def list_domains(page: Page) -> Response:
    found = await page.run(ListDomains, {})
    return page.render("domains.html", domains=found.domains, section="domains")


async def show_new_domain(page: Page) -> Response:
    await page.check(CreateDomain)
    return await _domain(page, 200, None, {"policy": "default"}, {}, "")


async def _domain(
    page: Page, status: int, domain: Any, values: dict[str, str], errors: dict[str, str], message: str
) -> Response:
    policies = await _names(page, ListPolicies, "policies")
    return page.render(
        "domain.html", status, domain=domain, values=values, errors=errors, message=message, policies=policies,
        section="domains",
    )  # fmt: skip


async def create_domain(page: Page) -> Response:
    sent = page.sent(*DOMAIN_FIELDS)
    try:
        made = await page.run(CreateDomain, {name: value for name, value in sent.items() if value})
    except (InvalidInput, Conflict) as error:
        return await _domain(page, 422, None, sent, *field_errors(error, set(DOMAIN_FIELDS)))
    return page.redirect("/domains", ("ok", f"The domain {made.name} is there."))


async def show_domain(page: Page) -> Response:
    found = await page.run(ShowDomain, {"name": page.path["name"]})
    return await _domain(page, 200, found, {"description": found.description, "policy": found.policy}, {}, "")


async def edit_domain(page: Page) -> Response:
    name, sent = page.path["name"], page.sent("description", "policy")
    try:
        await page.run(ModifyDomain, {"name": name, **sent, "description": sent.get("description") or None})
    except (InvalidInput, Conflict) as error:
        found = await page.run(ShowDomain, {"name": name})
        return await _domain(page, 422, found, sent, *field_errors(error, set(DOMAIN_FIELDS)))
    return page.redirect("/domains", ("ok", f"The domain {name} is changed."))


async def remove_domain(page: Page) -> Response:
    name = page.path["name"]
    try:
        await page.run(RemoveDomain, {"name": name})
    except Conflict as error:
        return page.redirect(f"/domains/{name}", ("error", str(error)))
    return page.redirect("/domains", ("ok", f"The domain {name} is gone."))


# -- policies


async def list_policies(page: Page) -> Response:
    found = await page.run(ListPolicies, {})
    return page.render("policies.html", policies=found.policies, section="policies")


async def show_new_policy(page: Page) -> Response:
    await page.check(CreatePolicy)
    usual = {"cpu": "1", "memory": "2G", "disk": "5G", "tasks": "512", "max_gpu": "true"}
    return _policy(page, 200, None, usual, {}, "")


def _policy(
    page: Page, status: int, policy: Any, values: dict[str, str], errors: dict[str, str], message: str
) -> Response:
    return page.render(
        "policy.html", status, policy=policy, values=values, errors=errors, message=message, section="policies"
    )


def _sent_policy(page: Page) -> tuple[dict[str, str], dict[str, Any]]:
    """Return what the form holds, and the action's raw fields: an empty maximum means none."""
    sent = page.sent(*POLICY_FIELDS, *FLAGS)
    raw: dict[str, Any] = {n: None if not v and n in CLEARABLE else v for n, v in sent.items() if n not in FLAGS}
    return sent, raw | {flag: "true" if sent.get(flag) else "false" for flag in FLAGS}


async def create_policy(page: Page) -> Response:
    sent, raw = _sent_policy(page)
    try:
        made = await page.run(CreatePolicy, raw)
    except (InvalidInput, Conflict) as error:
        return _policy(page, 422, None, sent, *field_errors(error, {*POLICY_FIELDS, *FLAGS}))
    return page.redirect("/policies", ("ok", f"The policy {made.policy.name} is there."))


async def show_policy(page: Page) -> Response:
    found = await page.run(ShowPolicy, {"name": page.path["name"]})
    given, most = found.defaults, found.maxima
    values = {
        "description": found.description,
        "gpu": "true" if given.gpu else "",
        "max_gpu": "true" if most.gpu else "",
        "second_factor": "true" if found.second_factor else "",
    }
    values |= {"cpu": f"{given.cpu:g}", "memory": given.memory, "disk": given.disk, "tasks": str(given.tasks)}
    values |= {f"max_{name}": _text(getattr(most, name)) for name in LIMITS}
    values["max_sessions"] = _text(found.max_sessions)
    return _policy(page, 200, found, values, {}, "")


def _text(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:g}"


async def edit_policy(page: Page) -> Response:
    sent, raw = _sent_policy(page)
    name = raw["name"] = page.path["name"]
    try:
        changed = await page.run(ModifyPolicy, raw)
    except (InvalidInput, Conflict) as error:
        found = await page.run(ShowPolicy, {"name": name})
        return _policy(page, 422, found, sent, *field_errors(error, {*POLICY_FIELDS, *FLAGS}))
    return page.redirect(
        "/policies", ("ok", f"The policy {name} is changed."), *[("warn", text) for text in changed.warnings]
    )


async def remove_policy(page: Page) -> Response:
    name = page.path["name"]
    try:
        await page.run(RemovePolicy, {"name": name})
    except Conflict as error:
        return page.redirect(f"/policies/{name}", ("error", str(error)))
    return page.redirect("/policies", ("ok", f"The policy {name} is gone."))


PAGES = (
    Entry("GET", "/groups", list_groups),
    Entry("GET", "/new-group", show_new_group),
    Entry("POST", "/new-group", create_group),
    Entry("GET", "/groups/{name}", show_group),
    Entry("POST", "/groups/{name}", edit_group),
    Entry("POST", "/groups/{name}/add", add_members),
    Entry("POST", "/groups/{name}/leave", remove_member),
    Entry("GET", "/groups/{name}/remove", show_remove_group),
    Entry("POST", "/groups/{name}/remove", remove_group),
    Entry("GET", "/domains", list_domains),
    Entry("GET", "/new-domain", show_new_domain),
    Entry("POST", "/new-domain", create_domain),
    Entry("GET", "/domains/{name}", show_domain),
    Entry("POST", "/domains/{name}", edit_domain),
    Entry("POST", "/domains/{name}/remove", remove_domain),
    Entry("GET", "/policies", list_policies),
    Entry("GET", "/new-policy", show_new_policy),
    Entry("POST", "/new-policy", create_policy),
    Entry("GET", "/policies/{name}", show_policy),
    Entry("POST", "/policies/{name}", edit_policy),
    Entry("POST", "/policies/{name}/remove", remove_policy),
)
