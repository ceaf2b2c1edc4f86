"""The starter notebooks, run from top to bottom as a user, in the environment that notebooks have."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diycloud.auth.actions import ChangePassword, CreateToken
from diycloud.client import Cloud
from tests.browser.front import Front, running_front
from tests.notebooks import environment
from tests.stack import ROOT

STARTERS = ROOT / "src/diycloud/templates/notebooks"
NAMES = sorted(path.name for path in STARTERS.iterdir())
DATA_SCIENCE = ("matplotlib", "numpy", "pandas", "scipy")
"""What is not there with `data_science: false`."""
WITHOUT = f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_others(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {DATA_SCIENCE!r} else find(name, path, target)
PathFinder.find_spec = classmethod(find_others)
"""
"""A sitecustomize.py: imports as they are where those were not installed."""
TOKEN = re.compile(r"dct_[a-z2-7]{12}_[0-9A-Za-z]{49}")
USER = "dtnbstart"


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with running_front(58_500, 58_599, "dtnoteb") as found:
        found.stack.cli("user", "create", USER, "--cpu", "0.5", "--memory", "512M")
        yield found


class Reader:
    """Somebody who runs notebooks in a home that has nothing but them."""

    def __init__(self, lab: Path) -> None:
        self.lab, self.account = lab, pwd.getpwnam(USER)
        self.home = Path(self.account.pw_dir)

    def run(self, name: str, **environ: str) -> dict[str, Any]:
        """Run a notebook and return it with its outputs. Raises AssertionError for a cell that fails."""
        env = {
            "PATH": "/usr/bin:/bin", "HOME": str(self.home), "USER": USER, "LOGNAME": USER, "LANG": "C.UTF-8",
            "CPU_LIMIT": "0.5", "MEM_LIMIT": str(512 << 20), "OMP_NUM_THREADS": "1",
            **environ,
        }  # fmt: skip
        mine = self.home / "notebooks" / name
        mine.parent.mkdir(exist_ok=True)
        shutil.copy(STARTERS / name, mine)
        for path in (mine.parent, mine):
            os.chown(path, self.account.pw_uid, self.account.pw_gid)
        done = subprocess.run(
            [self.lab / "bin/jupyter", "execute", "--inplace", "--timeout=120", str(mine)], capture_output=True, text=True,
            check=False, cwd=self.home, env=env, user=self.account.pw_uid, group=self.account.pw_gid, extra_groups=[],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Warning" not in done.stderr, done.stderr[-3000:]
        ran: dict[str, Any] = json.loads(mine.read_text())
        return ran


@pytest.fixture(scope="module")
def reader(front: Front) -> Reader:
    try:
        return Reader(environment("lab"))
    except RuntimeError as error:
        pytest.skip(str(error))


def said(notebook: dict[str, Any]) -> str:
    """Return everything that a notebook printed or showed as text."""
    parts: list[str] = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            assert output["output_type"] != "error", output
            assert output.get("name") != "stderr", output
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            parts.append("".join(text))
    return "\n".join(parts)


@pytest.mark.parametrize("name", NAMES)
def test_a_starter_is_clean(name: str) -> None:
    text = (STARTERS / name).read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len({*ids}) == len(ids) and all(re.fullmatch(r"[a-z-]{1,64}", found) for found in ids)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None and not cell["metadata"] for cell in code)
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "as Jupyter writes it"
    for linked in re.findall(r"\]\(([\w-]+\.ipynb)\)", text):
        assert linked in NAMES


@pytest.fixture(scope="module")
def bare() -> Iterator[dict[str, str]]:
    """Environment of a Python that has none of DATA_SCIENCE."""
    folder = Path(tempfile.mkdtemp(prefix="dtnb", dir="/var/tmp"))
    (folder / "sitecustomize.py").write_text(WITHOUT)
    folder.chmod(0o755)
    yield {"PYTHONPATH": str(folder)}
    shutil.rmtree(folder)


GIVE = """
import pathlib, sys
from diycloud.launcher.starters import copy_starters
copy_starters([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]))
"""


def given(reader: Reader, tmp_path: Path, **environ: str) -> set[str]:
    """Return the starters that a new user gets."""
    words = [str(reader.lab / "bin/python"), "-c", GIVE, str(STARTERS), str(tmp_path)]
    subprocess.run(words, check=True, env={"PATH": "/usr/bin:/bin", **environ})
    return set(os.listdir(tmp_path / "notebooks"))


@pytest.mark.slow
def test_all_starters_are_given_and_without_data_science_those_that_run(
    reader: Reader, bare: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    assert given(reader, tmp_path / "home", **bare) == {"welcome.ipynb", "gpu-check.ipynb", "rest-api.ipynb"}
    assert given(reader, tmp_path / "home") == {*NAMES}, "the rest comes with the packages"


@pytest.mark.slow
def test_what_is_given_without_data_science_runs_there(reader: Reader, bare: dict[str, str], tmp_path: Path) -> None:
    text = {name: said(reader.run(name, **bare)) for name in given(reader, tmp_path, **bare)}
    assert "NumPy is not installed in this kernel" in text["gpu-check.ipynb"]
    assert "%pip install numpy" in text["gpu-check.ipynb"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_starter_runs(name: str, reader: Reader) -> None:
    notebook = reader.run(name)
    ran = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in ran] == list(range(1, len(ran) + 1))
    text = said(notebook)
    if name == "welcome.ipynb":
        assert f"You are {USER} on " in text
        assert "CPU:    0.5 cores\nMemory: 0.5 GiB\n" in text
        assert "notebooks/" in text
    elif name == "data-analysis.ipynb":
        pictures = [out for cell in ran for out in cell["outputs"] if "image/png" in out.get("data", {})]
        assert len(pictures) == 3
        put_in, found = re.search(r"Put in: ([\d.]+)% a degree. Found: ([\d.]+)%", text).groups()  # type: ignore[union-attr]
        assert abs(float(put_in) - float(found)) < 1, "the analysis finds what was put into the data"
    elif name == "gpu-check.ipynb":
        found_one = "NVIDIA GPUs" in text
        assert found_one or "No GPU is to be seen" in text or "no driver answers" in text
        assert "billion operations a second" in text
    else:
        assert name == "rest-api.ipynb"
        assert "There is no token yet" in text


def make_token(front: Front) -> str:
    """Make an API token as people do: signed in, with a password of their own."""
    once, own = front.stack.json("user", "set-password", USER)["password"], "seven quiet lanterns drift"
    with Cloud.sign_in(front.url, USER, once, ca=front.folder / "ca.crt") as cloud:
        cloud.run(ChangePassword(current=once, password=own))
        return cloud.run(CreateToken(username=USER, label="notebook")).secret


@pytest.mark.slow
def test_the_cloud_from_python_with_a_token(reader: Reader, front: Front, bare: dict[str, str]) -> None:
    token = make_token(front)
    kept = reader.home / ".config/diycloud/notebook.token"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(token)
    shutil.copy(front.folder / "ca.crt", reader.home / "ca.crt")
    for path in (kept.parent.parent, kept.parent, kept, reader.home / "ca.crt"):
        os.chown(path, reader.account.pw_uid, reader.account.pw_gid)
    starter = (STARTERS / "rest-api.ipynb").read_text()
    place = {"DIYCLOUD_URL": front.url, "SSL_CERT_FILE": str(reader.home / "ca.crt")}
    try:
        notebook = reader.run("rest-api.ipynb", **place)
        without = said(reader.run("rest-api.ipynb", **place, **bare))
    finally:
        kept.unlink()
    assert "No picture without matplotlib" in without and re.search(r"MiB: \[\d+(, \d+){9}\]", without)
    text = said(notebook)
    assert f"Signed in as {USER}." in text
    assert "limits: 0.5 cores, 512M of memory" in text
    assert re.search(r"of +536,870,912.0 bytes of memory", text)
    assert "NotFound: " in text or "PermissionDenied: " in text
    assert not TOKEN.search(json.dumps(notebook)) and TOKEN.fullmatch(token)
    assert TOKEN.search(starter) is None
