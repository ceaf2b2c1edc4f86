"""A plain JupyterHub on this host: its own local spawner, its own proxy, its dummy sign-in. The way most begin with.

    mkdir PATH && cd PATH && npm install configurable-http-proxy     # tests.bench.notebooks --proxy PATH

It runs as root, for its spawner becomes the users; the people are accounts of the host. No TLS, which favours it. All of it is
in a cgroup that weighs as much as all users' slices do together: where the machine has other work, both get the same part.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path

import httpx
from tests.bench.harness import family, stop, wait_for
from tests.stack import remove_cgroups
from tests.waiting import free_port

from diycloud.units import cpu_shares

CONFIG = Path(__file__).parent / "notebook_hub_config.py"
PASSWORD = "one for all of them"
UID = 58_640
CGROUP = Path("/sys/fs/cgroup/cpu/dtnotebp")


class PlainHub:
    """A hub with so many people who may open notebooks."""

    way = "plain"

    def __init__(self, place: Path, hub: Path, lab: Path, proxy: Path, people: int) -> None:
        self.place, self.python, self.lab = place, hub / "bin/python", lab
        self.proxy = proxy / "node_modules/.bin/configurable-http-proxy"
        self.names = [f"dtnbp{number:02}" for number in range(people)]
        self.url, self._api, self._token = f"http://127.0.0.1:{free_port()}", free_port(), secrets.token_hex(32)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PlainHub:
        self.place.mkdir(parents=True)
        self.place.chmod(0o755)
        for number, name in enumerate(self.names):
            home = self.place / name
            subprocess.run(
                ["useradd", "-m", "-K", "HOME_MODE=0700", "-u", str(UID + number), "-d", home, name], check=True
            )
        environment = os.environ | {
            "BENCH_URL": self.url, "BENCH_HUB_PORT": str(free_port()), "BENCH_API_PORT": str(self._api),
            "BENCH_TOKEN": self._token, "BENCH_LAB": str(self.lab), "BENCH_PROXY": str(self.proxy), "BENCH_PASSWORD": PASSWORD,
            "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(32),
        }  # fmt: skip
        with (self.place / "hub.log").open("wb") as log:
            self.process = subprocess.Popen(
                [self.python, "-m", "jupyterhub", "-f", CONFIG], env=environment, cwd=self.place, stdout=log, stderr=log
            )
        try:
            CGROUP.mkdir()
            (CGROUP / "cpu.shares").write_text(str(cpu_shares(os.cpu_count() or 1)))
            (CGROUP / "cgroup.procs").write_text(str(self.process.pid))
            wait_for(self._answers, self.process, "JupyterHub", seconds=60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/hub/api/").status_code == 200
        except httpx.TransportError:
            return False

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            stop(self.process)
        for name in self.names:
            end_processes_of(pwd.getpwnam(name).pw_uid)
            subprocess.run(["userdel", name], check=False, capture_output=True)
        remove_cgroups(CGROUP.name)
        shutil.rmtree(self.place)

    def people(self) -> list[tuple[str, str]]:
        return [(name, PASSWORD) for name in self.names]

    def stop_servers(self, names: list[str]) -> None:
        """End servers, and return when they have ended."""
        headers = {"Authorization": f"token {self._token}"}
        with httpx.Client(base_url=f"{self.url}/hub/api", headers=headers, timeout=60) as client:
            for name in names:
                client.delete(f"/users/{name}/server")
        for name in names:
            end_processes_of(pwd.getpwnam(name).pw_uid)

    def parts(self) -> dict[str, list[int]]:
        """Return the processes that serve everybody, by what they are."""
        assert self.process is not None
        proxies = [pid for pid in family(self.process.pid) if b"configurable-http-proxy" in words_of(pid)]
        return {"hub": [self.process.pid], "proxy": proxies}

    def roots(self) -> list[int]:
        """Return the processes that all others descend from."""
        assert self.process is not None
        return [self.process.pid]


def words_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def processes_of(uid: int) -> list[int]:
    """Return the processes of a user."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def end_processes_of(uid: int) -> None:
    """End what a user of the bench's still runs."""
    for pid in processes_of(uid):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue
