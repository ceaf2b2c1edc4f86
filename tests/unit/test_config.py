"""Settings: every wrong key and value is refused with its place and what is allowed there."""

from __future__ import annotations

from pathlib import Path

import pytest

from diycloud import config
from diycloud.config import AgentSettings, Paths, ServerSettings, Settings
from diycloud.errors import InvalidInput


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return config.load(path, environ)


def test_no_file_and_an_empty_one_mean_the_defaults(tmp_path: Path) -> None:
    assert config.load(tmp_path / "none", {}) == load(tmp_path, "") == load(tmp_path, "# nothing\n") == Settings()
    assert load(tmp_path, "server:\n") == Settings()


def test_what_is_set_is_taken(tmp_path: Path) -> None:
    found = load(tmp_path, "server:\n  https_port: 8443\nagent:\n  uid_min: 30000\n  allowed_groups: [video, render]\n")
    assert found == Settings(
        AgentSettings(uid_min=30000, allowed_groups=("video", "render")), ServerSettings(https_port=8443)
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server:\n  https_prot: 1\n", ["line 2", "server.https_prot", "https_port"]),
        ("\n\nserver:\n\n  https_port: 70000\n", ["line 5", "server.https_port", "65535"]),
        ("server:\n  https_port: '443'\n", ["line 2", "must be a whole number, at least 1, at most 65535."]),
        ("server:\n  https_port: true\n", ["line 2"]),
        ("agent:\n  uid_min: 999\n", ["line 2", "1000"]),
        ("agent:\n  cgroup: ../x\n", ["line 2", "agent.cgroup"]),
        ('agent:\n  cgroup: "user\\n"\n', ["agent.cgroup"]),
        ("server: 5\n", ["line 1", "server"]),
        ("serve:\n  https_port: 1\n", ["line 1", "serve", "agent, server"]),
        ("notebooks:\n  profiles:\n    box: {kind: docker}\n", ["line 3", "notebooks.profiles", "image"]),
        ("notebooks:\n  profiles:\n    box: {image: lab}\n", ["line 3", "image", "kind docker"]),
        ("- server\n", ["mapping"]),
        ("just text\n", ["mapping"]),
        ("server: [\n", ["YAML"]),
        ("server:\n\thttps_port: 1\n", ["YAML"]),
        ("!!python/object/apply:os.system ['true']\n", ["YAML"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, said: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, text)
    assert all(word in str(caught.value) for word in ["config.yaml", *said]), str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profiles:\n    a: {}\n    b:\n      memory: 2Gb", "line 5: notebooks.profiles.b.memory must be a whole number with"),
        ("profiles:\n    small: {cpu: one}", "line 3: notebooks.profiles.small.cpu must be a number, at least 0,"),
        ("profiles:\n    small: {ram: 2G}", "line 3: notebooks.profiles.small.ram is no setting. There are: title, cpu"),
        ("profiles:\n    Small Size: {cpu: 1}", "line 3: notebooks.profiles.Small Size is no name: it must be a–z, 0–9"),
        ("profiles: [small, large]", "line 2: notebooks.profiles must be keys with values below it"),
        ("profiles:\n    small:", "line 3: notebooks.profiles.small must be keys with values below it, or {} for none"),
        ("packages: jupyterlab-git", "line 2: notebooks.packages must be a list, such as [one, two]"),
        ("packages: [numpy, --index-url=http://x]", "line 2: notebooks.packages.2 must be a package's name"),
        ("idle_minutes: 1h", "line 2: notebooks.idle_minutes must be a whole number, at least 0, at most 525600."),
        ("sign_in: ldap", "line 2: notebooks.sign_in must be one of pam, portal."),
        ("enabled: 'no'", "line 2: notebooks.enabled must be true or false."),
    ],
)  # fmt: skip
def test_what_a_setting_must_be_is_said_in_words(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, f"notebooks:\n  {text}\n")
    assert said in str(caught.value), str(caught.value)
    assert "Expected" not in str(caught.value) and "\\A" not in str(caught.value)


def test_what_a_setting_needs_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"line 2: sign_in.ldap needs the key url"):
        load(tmp_path, "sign_in:\n  ldap: {bind_dn: x}\n")


def test_the_environment_stands_above_the_file(tmp_path: Path) -> None:
    found = load(
        tmp_path, "server:\n  https_port: 8443\n", DIYCLOUD_SERVER__HTTPS_PORT="9443", DIYCLOUD_AGENT__UID_MAX="40000",
        DIYCLOUD_SERVER__REFUSE_OVERCOMMIT="true", OTHER="x", DIYCLOUD_PREFIX="/x",
    )  # fmt: skip
    assert (found.server.https_port, found.agent.uid_max, found.server.refuse_overcommit) == (9443, 40000, True)


@pytest.mark.parametrize(("key", "value"), [("DIYCLOUD_SERVER__NONE", "1"), ("DIYCLOUD_SERVER__HTTP_PORT", "x")])
def test_a_wrong_variable_is_named(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=f"environment variable {key}"):
        load(tmp_path, "", **{key: value})


def test_a_variable_beside_a_broken_section_is_no_crash(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        load(tmp_path, "server: 5\n", DIYCLOUD_SERVER__HTTP_PORT="81")
    assert load(tmp_path, "server:\n", DIYCLOUD_SERVER__HTTP_PORT="81").server.http_port == 81
    with pytest.raises(InvalidInput):
        load(tmp_path, "", DIYCLOUD_SERVER__HOST_NAME="[")


def test_every_place_is_under_the_prefix() -> None:
    paths = Paths("/srv/test")
    places = [getattr(paths, n) for n, v in vars(Paths).items() if isinstance(v, property)]
    assert len(places) > 10
    assert all(place.is_relative_to("/srv/test") for place in places)
    assert Paths().config == Path("/etc/diycloud/config.yaml")


def test_what_a_name_or_a_folder_must_be_is_said_in_words(tmp_path: Path) -> None:
    for text in (
        "notebooks: {host: X}",
        "notebooks: {templates: x}",
        "notebooks: {hub_user: X y}",
        "server: {host_name: 'a b'}",
        "agent: {archive: x}",
        "agent: {shared: '/'}",
    ):
        with pytest.raises(InvalidInput, match="must be a") as refused:
            load(tmp_path, text + "\n")
        assert "\\" not in refused.value.message, "no pattern"
