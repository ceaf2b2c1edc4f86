"""Policies, domains, groups, many users at once and imports, through the real portal, with scripts and without."""

from __future__ import annotations

import csv
import grp
import io
import json
import pwd
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from .conftest import CHECKS
from .front import ADMIN, ADMIN_ONE_TIME, ADMIN_PASSWORD, Front, running_front
from .test_portal import PASSWORD, choose_password, make_user, sign_in, visiting

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGLo0uJDu3ewRPzSZJVyHtB5p5dz3aRWUJ1vKwbRRWOi laptop"
DESK = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with running_front(50_000, 50_499, "dtport") as running:
        yield running


@pytest.fixture(scope="module", params=[True, False], ids=["scripts", "plain"])
def scripts(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def admin(browser: Browser, front: Front, scripts: bool) -> Iterator[Page]:
    """The administrator, signed in, with and without scripts."""
    with visiting(browser, front, viewport=DESK, java_script_enabled=scripts) as visit:
        if scripts:
            sign_in(visit.page, ADMIN, ADMIN_ONE_TIME)
            choose_password(visit.page, ADMIN_ONE_TIME, ADMIN_PASSWORD)
        else:
            sign_in(visit.page, ADMIN, ADMIN_PASSWORD)
        expect(visit.page.get_by_role("heading", level=1)).to_contain_text("Hello")
        yield visit.page


def choose(page: Page, verb: str, *names: str) -> None:
    """Tick users in the list and say what is to be done with them."""
    for name in names:
        page.get_by_label(f"Choose {name}", exact=True).check()
    page.get_by_label("What to do with the chosen users").select_option(verb)
    page.get_by_role("button", name="Go on").click()


class Tenant(NamedTuple):
    """Names in one domain, with its administrator and whether there are scripts."""

    policy: str
    domain: str
    head: str
    group: str
    user: str

    @classmethod
    def of(cls, tag: str) -> Tenant:
        return cls(f"policy{tag}", f"physics{tag}", f"dtqhead{tag}", f"dtqlab{tag}", f"dtqada{tag}")


@pytest.fixture(scope="module")
def tenant(scripts: bool) -> Tenant:
    return Tenant.of("s" if scripts else "p")


@pytest.fixture(scope="module")
def head(browser: Browser, front: Front, admin: Page, tenant: Tenant, scripts: bool) -> Iterator[Page]:
    """The administrator of a domain, which with its policy is made at the portal too."""
    make_policy(admin, tenant)
    make_domain(admin, tenant)
    admin.goto("/new-user")
    admin.get_by_label("User name").fill(tenant.head)
    admin.get_by_label("Role").select_option("domain-admin")
    admin.get_by_label("Domain").select_option(tenant.domain)
    admin.get_by_role("button", name="Create user").click()
    one_time = admin.get_by_label("the one-time password", exact=True).inner_text()
    with visiting(browser, front, viewport=DESK, java_script_enabled=scripts) as visit:
        sign_in(visit.page, tenant.head, one_time)
        choose_password(visit.page, one_time, PASSWORD)
        expect(visit.page.locator("main")).to_contain_text(f"You look after the domain {tenant.domain}")
        yield visit.page


def make_policy(admin: Page, tenant: Tenant) -> None:
    admin.goto("/policies")
    admin.get_by_role("link", name="New policy").click()
    admin.get_by_label("Name").fill(tenant.policy)
    admin.get_by_label("CPU, cores", exact=True).fill("0.5")
    admin.get_by_label("Memory", exact=True).fill("512M")
    admin.get_by_label("Most CPU, cores").fill("0.25")
    admin.get_by_role("button", name="Create policy").click()
    expect(admin.get_by_role("alert")).to_contain_text("above the policy's own max_cpu")
    admin.get_by_label("Most CPU, cores").fill("1")
    admin.get_by_role("button", name="Create policy").click()
    expect(admin.get_by_text(f"The policy {tenant.policy} is there.")).to_be_visible()


def make_domain(admin: Page, tenant: Tenant) -> None:
    admin.get_by_role("navigation", name="Main").get_by_role("link", name="Domains").click()
    admin.get_by_role("link", name="New domain").click()
    admin.get_by_label("Name").fill(tenant.domain)
    admin.get_by_label("Policy of new users").select_option(tenant.policy)
    admin.get_by_role("button", name="Create domain").click()
    expect(admin.get_by_role("row", name=tenant.domain)).to_contain_text(tenant.policy)


def test_a_group_and_a_user_in_it(browser: Browser, front: Front, head: Page, tenant: Tenant, scripts: bool) -> None:
    assert front.cgroup("cpu", tenant.head, "cpu.cfs_quota_us") == "50000", "the domain's policy"
    head.goto("/groups")
    head.get_by_role("link", name="New group").first.click()
    head.get_by_label("Name").fill(tenant.group)
    head.get_by_role("button", name="Create group").click()
    expect(head.get_by_text(f"The group {tenant.group} is there.")).to_be_visible()
    head.goto("/new-user")
    head.get_by_label("User name").fill(tenant.user)
    head.get_by_label("CPU", exact=True).fill("2")
    head.get_by_label("Groups").fill(tenant.group)
    head.get_by_role("button", name="Create user").click()
    expect(head.get_by_role("alert")).to_contain_text(f"at most 1 by the policy {tenant.policy}")
    head.get_by_label("CPU", exact=True).fill("")
    head.get_by_role("button", name="Create user").click()
    given = head.get_by_label("the one-time password", exact=True).inner_text()
    assert tenant.user in grp.getgrnam(tenant.group).gr_mem
    with visiting(browser, front, java_script_enabled=scripts) as visit:
        sign_in(visit.page, tenant.user, given)
        choose_password(visit.page, given, PASSWORD)
        folders = visit.page.get_by_role("table", name="Groups you are in")
        expect(folders).to_contain_text(f"{front.stack.prefix}/shared/{tenant.group}")


def test_a_key_then_the_audit_and_exports(front: Front, head: Page, tenant: Tenant) -> None:
    head.goto(f"/users/{tenant.user}")
    head.get_by_text("Add a key").click()
    head.get_by_label("New key").fill("-----BEGIN OPENSSH PRIVATE KEY-----")
    head.get_by_role("button", name="Add key").click()
    expect(head.get_by_label("New key")).to_have_attribute("aria-invalid", "true")
    head.get_by_label("New key").fill(KEY)
    head.get_by_role("button", name="Add key").click()
    expect(head.get_by_role("button", name="Remove laptop")).to_be_visible()
    assert KEY.split()[1] in (front.stack.prefix / "var/lib/diycloud/keys" / tenant.user).read_text()

    head.get_by_role("navigation", name="Main").get_by_role("link", name="Audit").click()
    head.get_by_text("More", exact=True).click()
    head.get_by_label("Action").fill("key.add")
    head.get_by_label("Outcome").select_option("done")
    head.get_by_role("button", name="Show").click()
    expect(head.get_by_role("table", name="Audit, newest first").locator("tbody tr")).to_have_count(1)
    rows = downloaded(head, "CSV")
    assert [(row["action"], row["target"], row["actor"]) for row in rows] == [("key.add", tenant.user, tenant.head)]
    head.goto("/users")
    expect(head.locator("tbody")).to_contain_text(tenant.user)
    expect(head.get_by_role("link", name=ADMIN, exact=True)).to_have_count(0)
    assert {(row["username"], row["domain"]) for row in downloaded(head, "Export")} == {
        (tenant.head, tenant.domain),
        (tenant.user, tenant.domain),
    }


def downloaded(page: Page, link: str) -> list[dict[str, str]]:
    """Click a link and return the rows of the CSV file that comes."""
    with page.expect_download() as download:
        page.get_by_role("link", name=link).click()
    return list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))


def test_a_domain_ends_at_its_border(head: Page, tenant: Tenant, scripts: bool) -> None:
    navigation = head.get_by_role("navigation", name="Main")
    assert navigation.get_by_role("link").all_inner_texts() == ["Home", "Users", "Groups", "Sign-ins", "Audit"]
    for path in (f"/users/{ADMIN}", "/domains/default", "/new-policy"):
        answer = head.goto(path)
        assert answer is not None
        assert answer.status == 403
    head.goto("/policies/default")
    expect(head.get_by_label("Memory", exact=True)).to_be_disabled()
    expect(head.locator("main button")).to_have_count(0)
    for path in (
        "/",
        "/users",
        f"/users/{tenant.user}",
        f"/users/{tenant.user}/edit",
        f"/groups/{tenant.group}",
        "/audit",
    ):
        head.goto(path)
        if scripts:
            assert head.evaluate(CHECKS) == [], path


def test_a_group_goes_with_its_folder(admin: Page, front: Front, tenant: Tenant, head: Page) -> None:
    folder = front.stack.prefix / "shared" / tenant.group
    assert folder.is_dir()
    admin.goto(f"/groups/{tenant.group}/remove")
    admin.get_by_label(f"Type {tenant.group} to confirm").fill(tenant.group)
    admin.get_by_role("button", name="Remove group").click()
    expect(admin.get_by_text(f"The group {tenant.group} is removed")).to_be_visible()
    assert not folder.exists()
    with pytest.raises(KeyError):
        grp.getgrnam(tenant.group)


def test_many_users_at_once(front: Front, admin: Page, scripts: bool) -> None:
    tag = "s" if scripts else "p"
    names = [f"dtqmany{tag}{i}" for i in range(3)]
    for name in names:
        make_user(front, name, "--cpu", "0.5")
    front.stack.cli("user", "disable", names[0])
    admin.goto(f"/users?search=dtqmany{tag}")
    choose(admin, "disable", *names)
    expect(admin.locator("tr.has-error")).to_have_count(1)
    expect(admin.locator("tr.has-error")).to_contain_text(names[0])
    assert front.stack.json("user", "show", names[1])["status"] == "active", "nothing before it is confirmed"
    admin.get_by_role("button", name="Disable: 2 users").click()
    expect(admin.get_by_role("heading", name="Done")).to_be_visible()
    assert {front.stack.json("user", "show", name)["status"] for name in names} == {"inactive"}

    admin.goto(f"/users?search=dtqmany{tag}")
    choose(admin, "enable", *names)
    admin.get_by_role("button", name="Enable: 3 users").click()
    front.stack.cli("group", "create", f"dtqteam{tag}")
    front.stack.cli("policy", "create", f"small{tag}", "--cpu", "0.25", "--memory", "256M")
    admin.goto(f"/users?search=dtqmany{tag}")
    choose(admin, "group", *names[1:])
    admin.get_by_label("Group").fill("nosuchgroup")
    admin.get_by_role("button", name="See what happens").click()
    expect(admin.locator("tr.has-error")).to_have_count(2)
    admin.goto(f"/users?search=dtqmany{tag}")
    choose(admin, "group", *names[1:])
    admin.get_by_label("Group").fill(f"dtqteam{tag}")
    admin.get_by_role("button", name="See what happens").click()
    admin.get_by_role("button", name="Put into a group: 2 users").click()
    expect(admin.get_by_role("heading", name="Done")).to_be_visible()
    assert sorted(grp.getgrnam(f"dtqteam{tag}").gr_mem) == names[1:]

    admin.goto(f"/users?search=dtqmany{tag}")
    choose(admin, "policy", names[2])
    admin.get_by_label("Policy", exact=True).select_option(f"small{tag}")
    admin.get_by_label("Set their limits").check()
    admin.get_by_role("button", name="See what happens").click()
    admin.get_by_role("button", name="Give a policy: 1 user").click()
    expect(admin.get_by_role("heading", name="Done")).to_be_visible()
    assert front.cgroup("cpu", names[2], "cpu.cfs_quota_us") == "25000"
    assert front.cgroup("cpu", names[1], "cpu.cfs_quota_us") == "50000"


def test_the_box_for_a_whole_page(front: Front, admin: Page, scripts: bool) -> None:
    make_user(front, f"dtqbox{scripts}".lower())
    admin.goto("/users?search=dtqbox")
    if not scripts:
        expect(admin.get_by_label("All on this page")).to_be_hidden()
        return
    admin.locator("tbody input").first.check()
    expect(admin.locator("[data-count]")).to_have_text("1 user chosen")
    admin.get_by_label("All on this page").check()
    assert admin.locator("tbody input:not(:checked)").count() == 0
    admin.get_by_label("Search by name").fill("nobody at all")
    expect(admin.get_by_role("heading", name="Nobody matches")).to_be_visible()
    expect(admin.get_by_role("button", name="Go on")).to_be_hidden()


WRONG = {
    "username": "Bad Name",
    "email": "nobody@",
    "full_name": "a:b",
    "role": "king",
    "domain": "nowhere",
    "groups": "nobodys",
    "policy": "none",
    "cpu": "-1",
    "memory": "lots",
    "disk": "1.5.2G",
    "tasks": "few",
    "allowed_client_ip": "10.0.0.0/99",
    "container_uid": "root",
    "shell": "bash",
}


def test_every_error_of_an_import_by_line_and_column(front: Front, admin: Page, scripts: bool) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(WRONG))
    writer.writeheader()
    for number, (column, value) in enumerate(WRONG.items()):
        writer.writerow({"username": f"dtqrow{number}"} | {column: value})
    writer.writerow({"username": "dtqright"})
    admin.goto("/import")
    admin.get_by_label("File").set_input_files(
        {"name": "all.csv", "mimeType": "text/csv", "buffer": text.getvalue().encode()}
    )
    admin.get_by_role("button", name="Check the rows").click()
    expect(admin.locator("tr.has-error")).to_have_count(len(WRONG))
    for line, column in enumerate(WRONG, 2):
        row = admin.locator("tr.has-error").filter(has=admin.get_by_role("cell", name=str(line), exact=True))
        expect(row.locator("td").last).to_contain_text(f"{column}:")
        expect(row.locator("td.bad")).to_have_text(WRONG[column])


def test_import_of_an_export_and_of_changes(front: Front, admin: Page, scripts: bool) -> None:
    tag = "s" if scripts else "p"
    name, new = f"dtqexp{tag}", f"dtqnew{tag}"
    make_user(front, name, "--full-name", "Before")
    people = [{"username": name, "full_name": "After", "cpu": 0.5}, {"username": new, "memory": "256M"}]
    admin.goto("/import")
    admin.get_by_label("Or paste the text").fill(json.dumps(people))
    admin.get_by_role("button", name="Check the rows").click()
    expect(admin.locator("tr.has-error")).to_contain_text(name)
    admin.goto("/import")
    admin.get_by_label("Or paste the text").fill(json.dumps(people))
    admin.get_by_label("Change the users that are there already").check()
    admin.get_by_role("button", name="Check the rows").click()
    admin.get_by_role("button", name="Create 1 user, change 1").click()
    expect(admin.get_by_role("heading", level=1)).to_have_text("Import of 2 users")
    expect(admin.get_by_role("row").filter(has_text=name)).to_contain_text("changed")
    expect(admin.get_by_role("row").filter(has_text=new)).to_contain_text("created")
    expect(admin.get_by_role("link", name="Download the passwords")).to_be_visible()
    assert front.stack.json("user", "show", name)["full_name"] == "After"
    assert pwd.getpwnam(new)
    admin.goto("/import")
    admin.get_by_label("Or paste the text").fill('[{"username": 1')
    admin.get_by_role("button", name="Check the rows").click()
    expect(admin.get_by_role("alert")).to_contain_text("JSON")


def test_how_far_an_import_is(browser: Browser, front: Front, admin: Page, scripts: bool) -> None:
    """The page grows while accounts are made: lines of progress, then the report; the last line only is seen."""
    tag = "s" if scripts else "p"
    lines = ["username"] + [f"dtqfar{tag}{i:03}" for i in range(80)]
    admin.goto("/import")
    admin.get_by_label("Or paste the text").fill("\n".join(lines))
    admin.get_by_role("button", name="Check the rows").click()
    admin.get_by_role("button", name="Create 80 users").click(no_wait_after=True)
    seen = admin.locator(".running > p").last
    expect(seen).to_contain_text(re.compile(r"^\d+ of 80 done"), timeout=60_000)
    expect(admin.get_by_text("Done. Each row and how it went:")).to_be_visible(timeout=120_000)
    expect(admin.locator(".running")).to_be_hidden()
    assert "checked once more" in (admin.locator(".running > p").first.text_content() or "")
    assert admin.locator(".running > p").count() >= 3
    expect(admin.locator("tbody tr")).to_have_count(80)


def test_a_purge_says_what_stays(front: Front, admin: Page, scripts: bool) -> None:
    name = "dtqpurge" + ("s" if scripts else "p")
    make_user(front, name)
    front.stack.cli("user", "delete", name)
    admin.goto(f"/users/{name}/purge")
    admin.get_by_label("Take the name out of the audit").check()
    admin.get_by_label(f"Type {name} to confirm").fill(name)
    admin.get_by_role("button", name="Purge for good").click()
    expect(admin.get_by_text(f"{name} is purged.")).to_be_visible()
    admin.goto(f"/audit?target={name}")
    expect(admin.get_by_role("heading", name="Nothing found")).to_be_visible()
