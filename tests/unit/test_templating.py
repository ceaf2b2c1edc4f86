"""The portal's filters and addresses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import jinja2
import pytest

from diycloud.web import templating as t

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("query", "changes", "expected"),
    [
        ({}, {}, "/users"),
        ({"search": "a&b", "sort": ""}, {}, "/users?search=a%26b"),
        ({"search": "x", "cursor": "c", "before": "9", "fragment": "1"}, {}, "/users?search=x"),
        ({"search": "x", "cursor": "old"}, {"cursor": "new"}, "/users?search=x&cursor=new"),
        ({"descending": True}, {"descending": False}, "/users"),
        ({"descending": False}, {"descending": True}, "/users?descending=true"),
        ({"status": "all"}, {"status": ""}, "/users"),
        ({"search": "é\n"}, {}, "/users?search=%C3%A9%0A"),
    ],
)
def test_page_url(query: dict[str, object], changes: dict[str, object], expected: str) -> None:
    assert t.page_url("/users", query, **changes) == expected


@pytest.mark.parametrize("value", [1795251600, 1795251600.0, "2026-11-21 09:00:00", "2026-11-21T10:00:00+01:00", NOW])
def test_every_form_of_a_time(value: float | str | datetime) -> None:
    assert t.iso(value) == "2026-11-21T09:00:00Z"
    assert t.clock(value) == "21 Nov 2026, 09:00 UTC"


@pytest.mark.parametrize("value", [None, "", 0])
def test_no_time(value: str | int | None) -> None:
    assert (t.iso(value), t.clock(value), t.ago(value)) == ("", "never", "never")


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(seconds=60), "1 min ago"),
        (timedelta(minutes=59, seconds=59), "59 min ago"),
        (timedelta(hours=1), "1 h ago"),
        (timedelta(hours=24), "1 day ago"),
        (timedelta(days=13, hours=23), "13 days ago"),
        (timedelta(days=14), "7 Nov 2026"),
    ],
)
def test_ago(before: timedelta, words: str) -> None:
    assert t.ago(NOW - before, NOW) == words


@pytest.mark.parametrize(
    ("used", "limit", "share"),
    [(None, 5, 0), (1, None, 0), (1, 0, 0), (0.42, 1, 42), (2, 1, 100), (-1, 1, 0), (0.994, 1, 99)],
)
def test_percent(used: float | None, limit: float | None, share: int) -> None:
    assert t.percent(used, limit) == share


def test_numbers() -> None:
    assert [t.cores(value) for value in (1.0, 0.5, 0.426, 12, None)] == ["1", "0.5", "0.43", "12", "–"]
    assert [t.number(value) for value in (7, 10_000)] == ["7", "10\u202f000"]
    assert [t.size(value) for value in (2 << 30, "1.5G", None)] == ["2G", "1.5G", "–"]


def test_data_url_holds_any_text() -> None:
    assert t.data_url('a,"b"\n#%') == "data:text/csv;charset=utf-8,a%2C%22b%22%0A%23%25"


def test_templates_escape_and_refuse_unknown_names() -> None:
    env = t.environment()
    assert env.from_string("{{ x }}").render(x="<b>&\"'") == "&lt;b&gt;&amp;&#34;&#39;"
    with pytest.raises(jinja2.UndefinedError):
        env.from_string("{{ x }}").render()


def test_the_policy_has_no_hole() -> None:
    assert "unsafe" not in t.CONTENT_SECURITY_POLICY
    assert "*" not in t.CONTENT_SECURITY_POLICY
    assert "http" not in t.CONTENT_SECURITY_POLICY


def test_every_asset_that_a_template_names_is_there() -> None:
    import re

    named = {
        name
        for path in t.TEMPLATES.glob("*.html")
        for name in re.findall(r"asset\(['\"]([^'\"]+)['\"]\)", path.read_text(encoding="utf-8"))
    }
    assert named
    assert [name for name in named if not (t.STATIC / name).is_file()] == []
    icons = (t.STATIC / "icons.svg").read_text(encoding="utf-8")
    used = {
        name
        for path in t.TEMPLATES.glob("*.html")
        for name in re.findall(r"icon\(\"([a-z-]+)\"", path.read_text(encoding="utf-8"))
    }
    assert [name for name in used if f'id="{name}"' not in icons] == []
