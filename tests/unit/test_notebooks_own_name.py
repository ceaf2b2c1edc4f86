"""Setting notebooks up at a host name of their own: what the settings take, who is told of the name, and what doctor sees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from diycloud import config
from diycloud.config import Paths, Settings
from diycloud.core import install_steps, renewal
from diycloud.core import notebook_steps as do
from diycloud.core.doctor_notebooks import examine_notebooks
from diycloud.core.install import NOTEBOOK_STEPS
from diycloud.core.installation import Installation
from diycloud.errors import InvalidInput
from diycloud.system import Result
from tests.unit.test_core_notebooks import Host, prepare, run_on

OWN = "notebooks.example.org"


def settings(text: str) -> Settings:
    return config.parse(text, Path("/etc/diycloud/config.yaml"), {})


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    written(tmp_path, f"notebooks: {{host: {OWN}}}\nserver: {{host_name: cloud.example.org, https_port: 8443}}\n")
    return str(tmp_path)


def written(folder: Path, text: str) -> None:
    (folder / "etc/diycloud").mkdir(parents=True, exist_ok=True)
    (folder / "etc/diycloud/config.yaml").write_text(text)


class Resolving(Host):
    """A host that finds names. leads_to: where notebooks' own leads; portal: where the portal's does."""

    leads_to: tuple[str, ...] = ()
    portal: tuple[str, ...] = ("127.0.0.1",)

    def _execute(self, argv: Sequence[str], input: str | None) -> Result:
        if list(argv[:2]) == ["getent", "ahosts"]:
            found = {OWN: self.leads_to, "cloud.example.org": self.portal}[argv[2]]
            text = "".join(f"{address}   STREAM {argv[2]}\n{address}   DGRAM\n" for address in found)
            return Result(0 if text else 2, text, "")
        return super()._execute(argv, input)


# -- the setting


@pytest.mark.parametrize("port", ["", "https_port: 8443"])
def test_where_notebooks_are(port: str) -> None:
    found = settings(f"notebooks: {{host: {OWN}}}\nserver: {{{port}}}\n")
    assert found.notebooks_address == f"https://{OWN}{':8443' if port else ''}"
    assert settings("").notebooks_address == "", "at the portal's address"


@pytest.mark.parametrize(
    "host",
    ["Notebooks.example.org", "https://x.example.org", "x.example.org:443", "x/y", "-x.org", "x..y", "x_y", "a b", "x.", "é.org",
     "192.0.2.7", "127.1", "x.7", "2001:db8::7", "null", "'x;return 200'", "'x\\n'", "x" * 64, ".".join(["x" * 60] * 5)],
)  # fmt: skip
def test_what_is_no_name(host: str) -> None:
    with pytest.raises(
        InvalidInput, match=r"line 2: notebooks\.host must be a host name in small letters, no address, such as"
    ):
        settings(f"notebooks:\n  host: {host}\n")


@pytest.mark.parametrize(
    "name", ["https://x.org", "x.org:443", "x.org.", "x..org", "-x", "a b", "x/y", "é.org", "'[::1]'", "'x;'"]
)
def test_what_is_no_name_of_the_portals(name: str) -> None:
    """What neither a certificate nor Nginx takes, and what would be another text for the name that notebooks have."""
    with pytest.raises(InvalidInput, match=r"line 2: server\.host_name must be"):
        settings(f"server:\n  host_name: {name}\n")


@pytest.mark.parametrize(
    "name", ["", "cloud", "Cloud.Example.org", "my_box.lan", "192.0.2.7", "2001:db8::7", "xn--9ca.org"]
)
def test_what_is_a_name_of_the_portals(name: str) -> None:
    assert settings(f"server:\n  host_name: '{name}'\n").server.host_name == name


def test_the_portals_own_name_is_refused() -> None:
    for same in (OWN, OWN.title()):
        with pytest.raises(InvalidInput, match=r"line 4: notebooks.host is the portal's own name"):
            settings(f"server:\n  host_name: {same}\nnotebooks:\n  host: {OWN}\n")


# -- setting it up


def test_certificate_site_and_hub_are_made_for_the_name(prefix: str) -> None:
    host = Host()
    run = run_on(host, prefix)
    prepare(host, run)
    asked: list[str] = []
    run.child = lambda *_, input="", **__: asked.append(input) or json.dumps({"secret": "s" * 43, "changed": True})  # type: ignore[method-assign,assignment]
    do.sign_in(run)
    assert json.loads(asked[0])["redirect_uris"] == [f"https://{OWN}:8443/jupyter/hub/oauth_callback"]
    assert OWN in run.certified_names and OWN not in run.site.names and run.names[0] == "cloud.example.org"
    assert run.site.notebooks is not None and run.site.notebooks.host == OWN
    words = install_steps.probe_arguments(run)
    assert words[words.index("--hub-name") + 1] == OWN and words[words.index("--name") + 1] == "cloud.example.org"
    assert install_steps.certificates in [step.run for step in NOTEBOOK_STEPS], (
        "`diycloud jupyter setup` is all it takes"
    )


def test_the_name_is_certified_and_stays_so(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_on(Host(), prefix)
    names: list[tuple[str, ...]] = []
    monkeypatch.setattr(install_steps.tls, "ensure_certificates", lambda *args: names.append(args[2]) or ["server"])
    install_steps.certificates(run)
    monkeypatch.setattr(type(run), "nginx", Unchanged())
    monkeypatch.setattr(do, "sign_in", lambda _: "")
    monkeypatch.setattr(run.platform, "reload_nginx", lambda: None)
    renewal.renew(run)
    assert len(names) == 2 and all(OWN in found for found in names)


class Unchanged:
    changed = False

    def ensure(self, _: object) -> Unchanged:
        return self


def test_a_name_that_the_host_has_anyway_is_notebooks_alone(tmp_path: Path) -> None:
    written(tmp_path, "notebooks: {host: box}\nserver: {host_name: cloud.example.org}\n")
    host = Host()
    host.files.update(type(host)().files)
    host.write_all(Path("/proc/sys/kernel/hostname"), "box\n")
    run = run_on(host, str(tmp_path))
    assert run.identity.name == "box" and "box" not in run.names and "box" in run.certified_names
    off = Installation(host, run_on(host, str(tmp_path), without_notebooks=True).options)
    assert "box" in off.names


# -- the hub


def test_the_hub_sends_people_to_the_portals_name() -> None:
    from diycloud.hub import addresses

    own = settings(f"notebooks: {{host: {OWN}}}\nserver: {{host_name: cloud.example.org}}\n")
    assert addresses.portal(own) == "https://cloud.example.org/" and addresses.portal(settings("")) == "/"
    assert addresses.environment(own) == {
        "JUPYTERHUB_PUBLIC_HUB_URL": f"https://{OWN}/jupyter/hub/", "JUPYTERHUB_PORTAL_URL": "https://cloud.example.org/",
    }  # fmt: skip
    plain = settings("server: {host_name: cloud.example.org, https_port: 8443}\n")
    assert addresses.environment(plain)["JUPYTERHUB_PUBLIC_HUB_URL"] == "https://cloud.example.org:8443/jupyter/hub/"


# -- doctor


def about_the_name(host: Host, prefix: str) -> list[tuple[str, str]]:
    return [(one.result, one.detail) for one in examine_notebooks(run_on(host, prefix)) if OWN in one.detail]


def test_doctor_says_where_the_name_leads(prefix: str) -> None:
    host = Resolving()
    assert about_the_name(host, prefix) == [("warn", f"{OWN} (notebooks.host) leads nowhere, seen from this host")]
    host.leads_to = ("203.0.113.9",)
    ((result, detail),) = about_the_name(host, prefix)
    assert result == "warn" and "203.0.113.9, which is no address of this host" in detail
    host.leads_to = ("203.0.113.9", "127.0.0.1")
    assert about_the_name(host, prefix) == [("ok", f"{OWN} leads to this host")]
    host.leads_to = ("127.0.1.1",)
    ((result, detail),) = about_the_name(host, prefix)
    assert result == "ok" and "seen from itself" in detail, "others may find another address, or none"


def test_doctor_says_where_the_portals_name_leads_too(prefix: str) -> None:
    """People are sent there to sign in."""
    host = Resolving()
    host.leads_to, host.portal = ("127.0.0.1",), ()
    said = [one for one in examine_notebooks(run_on(host, prefix)) if one.detail.startswith("cloud.example.org")]
    assert [(one.result, one.detail) for one in said] == [
        ("warn", "cloud.example.org (server.host_name) leads nowhere, seen from this host")
    ]
    assert "/etc/hosts" in said[0].advice


def test_setting_it_up_says_at_once_that_the_name_leads_nowhere(prefix: str) -> None:
    host = Resolving()
    run = run_on(host, prefix)
    prepare(host, run)
    do.sign_in(run)
    assert [note for note in run.notes if note.startswith(f"{OWN} (notebooks.host) leads nowhere")]
    again = run_on(host, prefix)
    assert do.sign_in(again) == "as it should be" and not again.notes, "told once, when it was set"


def test_doctor_says_that_the_portals_name_is_needed(tmp_path: Path) -> None:
    written(tmp_path, f"notebooks: {{host: {OWN}}}\n")
    said = [one for one in examine_notebooks(run_on(Resolving(), str(tmp_path))) if "sent from" in one.detail]
    assert [one.result for one in said] == ["warn"] and "server.host_name" in said[0].advice
    assert Paths(str(tmp_path)).config.exists()
