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
        ("server:\n  https_port: '443'\n", ["line 2", "int"]),
        ("server:\n  https_port: true\n", ["line 2"]),
        ("agent:\n  uid_min: 999\n", ["line 2", "1000"]),
        ("agent:\n  cgroup: ../x\n", ["line 2", "agent.cgroup"]),
        ('agent:\n  cgroup: "user\\n"\n', ["agent.cgroup"]),
        ("server: 5\n", ["line 1", "server"]),
        ("serve:\n  https_port: 1\n", ["line 1", "serve", "agent, server"]),
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
