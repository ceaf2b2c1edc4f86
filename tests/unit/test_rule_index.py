"""The documentation tells the truth where a program can tell: rules and their tests, links, names of things."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from diycloud.cli.main import EXIT, NOUNS, PLATFORM, SESSION
from diycloud.config import Paths
from diycloud.core.routes import ROUTES
from diycloud.distro.tables import FAMILIES, family
from diycloud.web.problems import STATUS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RULES = DOCS / "explanation/rules.md"
CHECKLIST = DOCS / "explanation/security-checklist.md"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
RULE = re.compile(r"^### (\d+)\. (.+)$", re.M)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")
IDS = {"argvalues": PAGES, "ids": [str(page.relative_to(ROOT)) for page in PAGES]}


def rules() -> dict[int, str]:
    """Return number → text of each rule."""
    text = RULES.read_text(encoding="utf-8")
    found = list(RULE.finditer(text))
    ends = [match.start() for match in found[1:]] + [text.index("\n## Not supported")]
    return {int(match[1]): text[match.start() : end] for match, end in zip(found, ends, strict=True)}


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def missing_tests(text: str) -> list[str]:
    named = TEST.findall(text)
    return [f"{path}::{name}" for path, name in named if not (ROOT / path).is_file() or name not in functions_of(path)]


def test_every_rule_is_there_once_in_order() -> None:
    assert [int(match[1]) for match in RULE.finditer(RULES.read_text(encoding="utf-8"))] == list(range(1, 24))


@pytest.mark.parametrize("number", range(1, 24))
def test_a_rule_says_what_it_closes_where_and_what_proves_it(number: int) -> None:
    text = rules()[number]
    assert "- **Closes**: " in text
    assert "- **Where**: " in text
    assert TEST.search(text) or "- **Not yet**: " in text
    assert ("- **Tests**: " in text) == bool(TEST.search(text))
    assert missing_tests(text) == []


@pytest.mark.parametrize("number", range(1, 24))
def test_the_places_a_rule_names_exist(number: int) -> None:
    where = rules()[number].partition("- **Where**: ")[2].partition("\n- **")[0]
    for place, _, names in re.findall(r"`([\w/]+(\.\w+|/))`(?: \(([^)]*)\))?", where):
        path = ROOT / "src/diycloud" / place
        assert path.exists(), place
        for name in re.findall(r"`(\w+)`", names):
            assert name in path.read_text(encoding="utf-8"), f"{name} is not in {place}"


def test_the_checklist_names_tests_that_exist_and_no_point_is_open_unsaid() -> None:
    text = CHECKLIST.read_text(encoding="utf-8")
    assert missing_tests(text) == []
    rows = [line for line in text.splitlines() if re.match(r"\| (yes|part|no|not yet) \|", line)]
    assert len(rows) > 50
    for row in rows:
        state, _, proof = row.strip("| ").partition(" | ")
        assert state in ("no", "not yet") or "`" in proof, f"nothing shows it: {row}"


@pytest.mark.parametrize("page", **IDS)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in LINK.findall(text):
        if not re.match(r"[a-z]+:", target):
            there = (page.parent / unquote(target.partition("#")[0])).resolve()
            assert there.exists() or not target.partition("#")[0], f"{target} in {page.name}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set[Path](), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached:
            continue
        reached.add(page)
        if page.suffix == ".md":
            found = (target.partition("#")[0] for target in LINK.findall(page.read_text(encoding="utf-8")))
            todo += [(page.parent / target).resolve() for target in found if target and "://" not in target]
    pages = {path for path in DOCS.rglob("*.*") if path.is_file()} - {DOCS / "plan.md"}
    assert pages - reached == set()


@pytest.mark.parametrize("page", **IDS)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    verbs = {route.verb for route in ROUTES if route.verb} | {"user import-database"}  # an import of what it reads
    found = re.findall(r"```sh\n(.*?)```|`([^`\n]+)`", page.read_text(encoding="utf-8"), re.S)
    code = "\n".join(block or inline for block, inline in found)
    for noun, verb in re.findall(r"(?<![\w/.:_-])diycloud ([a-z]+)(?: ([a-z-]+))?", code):
        assert noun in NOUNS or noun in PLATFORM or noun in SESSION, f"diycloud {noun}"
        assert noun not in NOUNS or not verb or verb.startswith("-") or f"{noun} {verb}" in verbs, (
            f"diycloud {noun} {verb}"
        )


def test_pages_that_the_program_names_exist() -> None:
    sources = [*(ROOT / "src").rglob("*.py"), ROOT / "install.sh"]
    named = {page for path in sources for page in re.findall(r"docs/[\w/-]+\.\w+", path.read_text(encoding="utf-8"))}
    assert len(named) >= 5
    assert {page for page in named if not (ROOT / page).is_file()} == set()


def test_the_table_of_errors_is_the_programs() -> None:
    text = (DOCS / "reference/errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z-]+) \| (\d+) \| (\d+) \|", text, re.M)
    found = {code: (int(http), int(status)) for code, http, status in rows}
    assert found.pop("error") == (500, 1)
    assert found == {code: (STATUS[code], EXIT[code]) for code in EXIT}


def test_the_table_of_distributions_is_the_programs() -> None:
    text = (DOCS / "reference/distributions.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| ([a-z]+) \| ([a-z-]+) \| ([\w.]+) \|", text, re.M)
    wanted = [
        (name, key, least or "rolling") for name in FAMILIES for key, least in family(name).supported_from.items()
    ]
    assert found == wanted


def test_the_places_in_host_effects_are_the_programs() -> None:
    text = (DOCS / "explanation/host-effects.md").read_text(encoding="utf-8")
    paths = Paths()
    for place in (paths.program, paths.config_dir, paths.state.parent, paths.logs, paths.run):
        assert f"`{place}`" in text, place
