"""Programs that a System starts: environment, input, user, end, and output that is stored as it comes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from diycloud.errors import HostError
from diycloud.system import Local, Owner, System
from diycloud.system.dry_run import DryRun
from tests.unit.systems import make


def test_a_program_gets_a_clean_environment_and_its_input(real: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD_SECRET", "leak")
    assert "leak" not in real.query(["env"]).stdout
    assert real.run(["cat"], input="told").stdout == "told"
    assert real.run(["cat"]).stdout == "", "without input, standard input is empty"
    assert real.query(["sh", "-c", "echo $EXTRA"], env={"EXTRA": "given"}).stdout == "given\n"
    with pytest.raises(HostError, match="did not end"):
        real.run(["sleep", "5"], timeout=0.1)
    with pytest.raises(HostError, match="no program"):
        real.run(["no-such-program-here"])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another")
def test_a_program_runs_as_the_user_with_no_other_group(real: System, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    told = real.run(["sh", "-c", "id -u; id -G"], user=Owner(50998, 50998), cwd="/").stdout.split()
    assert told == ["50998", "50998"]


def test_kill_says_whether_there_was_one(real: System) -> None:
    with subprocess.Popen(["sleep", "30"]) as process:
        assert real.kill(process.pid, signal.SIGTERM) is True
        process.wait()
    assert real.kill(process.pid) is False


def test_output_is_stored_as_it_comes(real: System, tmp_path: Path) -> None:
    path, seen = tmp_path / "out", list[int]()
    path.write_text("of a start that was cut off, and longer than what comes")
    path.chmod(0o600)
    told = real.store_output(["sh", "-c", "printf 'a\\0b'; echo 'to people' >&2; sleep 0.7"], path, watch=seen.append)
    assert (path.read_bytes(), told, stat.S_IMODE(path.stat().st_mode)) == (b"a\0b", "to people", 0o600)
    assert len(seen) >= 2 and seen[-1] == 3, "called while nothing comes too"
    real.store_output(["head", "-c", str(5 << 20), "/dev/zero"], path, watch=seen.append)
    assert path.stat().st_size == seen[-1] == 5 << 20


def test_who_watches_ends_the_program(real: System, tmp_path: Path) -> None:
    def stop(size: int) -> None:
        if size > 1 << 20:
            raise HostError("enough")

    with pytest.raises(HostError, match="enough"):
        real.store_output(["sh", "-c", f"echo $$ >{tmp_path}/pid; exec cat /dev/zero"], tmp_path / "out", watch=stop)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_program_that_fails_while_it_is_stored(real: System, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"status 3: no\nluck"):
        real.store_output(["sh", "-c", "echo no >&2; echo luck >&2; exit 3"], tmp_path / "out", watch=lambda _: None)
    with pytest.raises(HostError, match="no program"):
        real.store_output(["no-such-program-here"], tmp_path / "out", watch=lambda _: None)
    (tmp_path / "precious").write_text("old")
    (tmp_path / "link").symlink_to("precious")
    with pytest.raises(HostError):
        real.store_output(["echo", "new"], tmp_path / "link", watch=lambda _: None)
    assert (tmp_path / "precious").read_text() == "old"


def test_the_fake_and_the_dry_run_store_output_too(tmp_path: Path) -> None:
    fake = make("fake", tmp_path)
    assert fake.store_output(["true"], tmp_path / "out", watch=lambda _: None) == ""
    assert fake.read(tmp_path / "out") == ""
    with pytest.raises(HostError):
        fake.store_output(["sh", "-c", "echo out; echo err >&2; exit 3"], tmp_path / "out", watch=lambda _: None)
    shown: list[str] = []
    plan = DryRun(Local(), shown.append)
    plan.store_output(["rm", "-rf", str(tmp_path)], tmp_path / "out", watch=lambda _: None)
    assert plan.exists(tmp_path / "out") and tmp_path.is_dir() and not (tmp_path / "out").exists()
    assert shown == [f"run        rm -rf {tmp_path} > {tmp_path}/out"]
