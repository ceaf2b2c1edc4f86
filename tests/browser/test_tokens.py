"""The design tokens: every pair that may meet is legible, in both themes (WCAG 2.2, 1.4.3 and 1.4.11)."""

from __future__ import annotations

import re

import pytest

from diycloud.web.templating import STATIC

CSS = (STATIC / "app.css").read_text(encoding="utf-8")
TOKENS = {
    name: (light, dark)
    for name, light, dark in re.findall(r"--([a-z0-9-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", CSS)
}

GROUNDS = ("paper", "surface", "sunken")
TEXT = [
    *((ink, ground) for ink in ("ink", "ink-2", "ink-3", "accent", "danger") for ground in GROUNDS),
    ("accent", "accent-soft"),
    ("ok", "ok-soft"),
    ("warn", "warn-soft"),
    ("danger", "danger-soft"),
    ("warn", "surface"),
    ("ok", "sunken"),
    *(("on-accent", fill) for fill in ("accent-fill", "accent-fill-hover", "danger-fill", "danger-fill-hover")),
]
SHAPES = [
    ("line-strong", "surface"),
    ("line-strong", "paper"),
    ("focus", "paper"),
    ("focus", "surface"),
    ("accent-fill", "sunken"),
    ("danger-fill", "sunken"),
]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("pairs", "least"), [(TEXT, 4.5), (SHAPES, 3.0)], ids=["text", "shapes"])
def test_contrast(pairs: list[tuple[str, str]], least: float, theme: int) -> None:
    found = {f"{a} on {b}": round(contrast(TOKENS[a][theme], TOKENS[b][theme]), 2) for a, b in pairs}
    assert {pair: ratio for pair, ratio in found.items() if ratio < least} == {}


def test_colours_are_tokens_only() -> None:
    """A colour written outside the tokens would not follow the theme; shadows and the selection are the exceptions."""
    rest = re.sub(r"/\*.*?\*/", "", CSS.split(".theme-light", 1)[1], flags=re.DOTALL)
    found = [line.strip() for line in rest.splitlines() if re.search(r"#[0-9a-fA-F]{3,8}\b|rgb\(", line)]
    assert [
        line
        for line in found
        if "shadow" not in line and "::selection" not in line and "@media print" not in line and "#999" not in line
    ] == []


def test_nothing_comes_from_elsewhere() -> None:
    for path in STATIC.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
            assert not re.search(r"https?://|@import|url\((?!data:)", text), path
