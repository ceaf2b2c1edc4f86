"""The generated pages are those of this program."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from diycloud.core import reference

FOLDER = Path(__file__).parents[2] / "docs/reference"


@pytest.mark.parametrize("name", list(reference.pages()))
def test_the_committed_page_is_up_to_date(name: str) -> None:
    page = FOLDER / name
    assert page.exists() and page.read_text(encoding="utf-8") == reference.pages()[name], (
        f"{page} is old: run `.venv/bin/python -m diycloud.core.reference`"
    )


def test_every_setting_is_explained() -> None:
    rows = [line for line in reference.settings_page().splitlines() if line.startswith("| `")]
    assert len(rows) >= 15
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells[-1]) > 10, f"what is {cells[0]}?"


def test_the_schema_can_be_run_by_any_sqlite(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.executescript(reference.schema_page())
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables >= {"users", "resource_allocations", "sessions", "audit"}
    connection.close()


def test_pages_are_written_where_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["reference", str(tmp_path / "new")])
    assert reference.main() == 0
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(reference.pages())
    assert len(capsys.readouterr().out.splitlines()) == len(reference.pages())
    assert reference.main() == 0
    assert capsys.readouterr().out == "", "nothing to do the second time"
