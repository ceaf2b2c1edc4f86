"""A real Prometheus that reads /metrics through Nginx and TLS with a token, while somebody starts and ends a notebook."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.notebooks import PASSWORD, Notebooks, why_not
from tests.stack import Stack
from tests.waiting import free_port

WHY_NOT = why_not() or ("" if shutil.which("prometheus") else "there is no prometheus on this machine")
pytestmark = [pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "-"), pytest.mark.slow]
ADMIN, ALICE = "dthdadmin", "dthdalice"
WAIT_S = 60.0


class Site(Notebooks):
    """The platform with an administrator and alice, and a token for Prometheus."""

    def ask(self, method: str, path: str, token: str = "", body: Any = None) -> httpx.Response:
        """Ask over HTTPS, the certificate checked."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(verify=ssl.create_default_context(cafile=str(self.authority)), timeout=90) as client:
            return client.request(method, self.url + path, headers=headers, json=body)

    @property
    def authority(self) -> Path:
        return self.site.folder / "ca.crt"

    def session(self, name: str) -> str:
        answer = self.ask("POST", "/api/v1/auth/login", body={"username": name, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(Stack(uid_min=31_300, uid_max=31_399, cgroup="dthd")) as found:
        found.user(ADMIN, "--role", "admin")
        found.user(ALICE)
        yield found


@pytest.fixture(scope="module")
def token(site: Site) -> str:
    sent = {"label": "prometheus", "scopes": ["metrics:read"], "days": 1}
    made = site.ask("POST", f"/api/v1/users/{ADMIN}/tokens", site.session(ADMIN), sent)
    assert made.status_code == 201, made.text
    return str(made.json()["secret"])


class Prometheus:
    """The distribution's Prometheus on loopback, as its own account. settings: its file; folder: for what it keeps."""

    def __init__(self, settings: Path, folder: Path) -> None:
        account, self._port = pwd.getpwnam("prometheus"), free_port()
        data = folder / "data"
        data.mkdir()
        os.chown(data, account.pw_uid, account.pw_gid)
        with (folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus", f"--config.file={settings}", f"--storage.tsdb.path={data}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", user=account.pw_uid, group=account.pw_gid,
                extra_groups=[],
            )  # fmt: skip

    def value(self, query: str) -> float | None:
        """Return what a query for one value finds, None for nothing or as long as it does not answer."""
        address = f"http://127.0.0.1:{self._port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                found = json.load(answer)["data"]["result"]
        except (urllib.error.URLError, ConnectionError):
            return None
        return float(found[0]["value"][1]) if found else None

    def wait(self, query: str, right: Callable[[float], bool]) -> float:
        """Return what a query finds once that is right."""
        deadline, found = time.monotonic() + WAIT_S, None
        while time.monotonic() < deadline:
            found = self.value(query)
            if found is not None and right(found):
                return found
            time.sleep(0.3)
        raise AssertionError(f"{query} is still {found} after {WAIT_S} s")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def prometheus(site: Site, token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = Path("/var/tmp") / tmp_path_factory.mktemp("dthd").name
    folder.mkdir()
    try:
        account = pwd.getpwnam("prometheus")
        secret, settings = folder / "token", folder / "prometheus.yml"
        secret.write_text(token)
        secret.chmod(0o400)
        os.chown(secret, account.pw_uid, account.pw_gid)
        authority = shutil.copyfile(site.authority, folder / "ca.crt")
        section = site.stack.cli(
            "metrics", "--scrape-config", "--token-file", str(secret), "--authority-file", str(authority)
        ).stdout
        settings.write_text(f"global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n{section}")
        checked = subprocess.run(["promtool", "check", "config", str(settings)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        found = Prometheus(settings, folder)
        try:
            yield found
        finally:
            found.close()
    finally:
        shutil.rmtree(folder)


def test_the_text_is_as_promtool_wants_it(site: Site) -> None:
    text = site.stack.cli("metrics").stdout
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "\ndiycloud_agent_up 1.0\n" in text and ALICE not in text


def test_from_outside_it_is_for_who_has_a_token(site: Site, token: str) -> None:
    nobody = site.ask("GET", "/metrics")
    assert nobody.status_code == 401 and "metrics:read" in nobody.json()["hint"] and "diycloud_up" not in nobody.text
    assert site.ask("GET", "/metrics", site.session(ALICE)).status_code == 403
    answer = site.ask("GET", "/metrics", token)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert site.ask("GET", "/api/v1/users", token).status_code == 403, "it is for nothing else"


def test_the_hubs_own_page_of_metrics_is_nobodys(site: Site, token: str) -> None:
    for sent in ("", token, site.session(ADMIN)):
        answer = site.ask("GET", "/jupyter/hub/metrics", sent)
        assert answer.status_code in (302, 403) and "jupyterhub_" not in answer.text
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(site.paths.hub_socket)), timeout=60) as client:
        address, asked = "http://hub/jupyter/hub/metrics", {"Authorization": f"token {site.portal_token}"}
        assert client.get(address).status_code in (302, 403)
        assert "jupyterhub_" in client.get(address, headers=asked).text, "but root's, with the portal's token"


def test_prometheus_sees_a_notebook_start_and_an_administrator_end_it(site: Site, prometheus: Prometheus) -> None:
    prometheus.wait('up{job="diycloud"}', lambda value: value == 1)
    started = 'diycloud_notebook_starts_total{outcome="started"}'
    assert prometheus.wait(started, lambda value: value == 0) == 0
    notebooks = f"/api/v1/users/{ALICE}/notebooks"
    answer = site.ask("POST", notebooks, site.session(ALICE), {})
    assert answer.status_code < 300, answer.text
    prometheus.wait(started, lambda value: value == 1)
    prometheus.wait('diycloud_notebook_servers{state="running"}', lambda value: value == 1)
    assert 0 < prometheus.wait("diycloud_notebook_start_seconds_sum", lambda value: value > 0) < 60
    assert prometheus.wait("diycloud_notebook_memory_bytes", lambda value: value > 1e7) < 1e9
    ended = site.ask("DELETE", notebooks, site.session(ADMIN), {})
    assert ended.status_code == 200, ended.text
    prometheus.wait('diycloud_notebook_stops_total{reason="administrator"}', lambda value: value == 1)
    prometheus.wait('diycloud_notebook_servers{state="running"}', lambda value: value == 0)
    assert prometheus.wait('sum(diycloud_notebook_stops_total{reason!="administrator"})', lambda value: True) == 0
    ((by,),) = site.stack.by_hand("SELECT by_whom FROM activity WHERE outcome = 'stopped'")[1]
    assert by == ADMIN


def test_an_agent_that_is_away_is_seen_and_what_was_asked_of_it(site: Site, prometheus: Prometheus) -> None:
    prometheus.wait("diycloud_agent_up", lambda value: value == 1)
    site.stack.stop_agent()
    try:
        prometheus.wait("diycloud_agent_up", lambda value: value == 0)
        prometheus.wait('diycloud_agent_call_seconds_count{message="ping",outcome="away"}', lambda value: value >= 1)
        assert prometheus.value('up{job="diycloud"}') == 1
    finally:
        site.stack.start_agent()
    prometheus.wait("diycloud_agent_up", lambda value: value == 1)
