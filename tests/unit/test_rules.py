"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_LINES = 400
TEXT = {
    ".py",
    ".md",
    ".txt",
    ".toml",
    ".yaml",
    ".yml",
    ".sh",
    ".html",
    ".css",
    ".js",
    ".sql",
    ".conf",
    ".csv",
    ".svg",
    "",
}


def tracked() -> list[Path]:
    """Return the project's own text files: what git knows, or all but what is built where there is no git."""
    argv = [
        "git",
        "-c",
        f"safe.directory={ROOT}",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        files = [ROOT / name for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        files = [p for p in ROOT.rglob("*") if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)]
    return [path for path in files if path.is_file() and path.suffix in TEXT]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "a module begins with what it is for"
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)


def test_only_the_seam_starts_processes() -> None:
    """The launcher, which imports nothing of the platform's, starts itself anew without an environment, and forks."""
    begins_anew = ROOT / "src/diycloud/launcher/__main__.py"
    for path in SOURCES:
        if path.relative_to(ROOT / "src/diycloud").parts[0] == "system":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                names = [f"os.{node.attr}"]
            assert not {"subprocess", "pty", "os.system", "os.popen", "os.posix_spawn"} & set(names), path
            names = [name for name in names if (path, name) != (begins_anew, "os.execve")]
            assert not any(name.startswith(("os.exec", "os.spawn")) for name in names), path


def test_no_file_names_the_machine_it_was_written_on() -> None:
    here = re.compile(rf"{re.escape(str(ROOT))}(?![A-Za-z0-9_-])")
    found = [
        str(p.relative_to(ROOT)) for p in tracked() if Path("/") != ROOT and here.search(p.read_text(errors="replace"))
    ]
    assert found == []


def test_requirements_name_versions_and_hashes_and_no_host() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text and not re.search(
            r"^\s*(-i|-f|--(extra-)?index-url|--find-links|--trusted-host)\b", text, re.M
        )
        lines = text.replace("\\\n", " ").splitlines()
        wanted = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        assert len(wanted) > 10
        for line in wanted:
            assert re.match(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?==[^\s]+( *;[^-]*)?\s+--hash=sha256:[0-9a-f]{64}", line), (
                line
            )


def test_few_direct_dependencies() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) <= 25
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "requirements/runtime.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = {re.split(r"[<>=\[ ]", name)[0].lower() for name in project["dependencies"]}
    assert wanted <= pinned
