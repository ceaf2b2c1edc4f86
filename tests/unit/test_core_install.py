"""The parts of the installation that need no host: certificates, names, options, settings, steps, ports."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from diycloud.core import certificates as tls
from diycloud.core.install_steps import make_password, parse_listening
from diycloud.core.names import host_name, in_url
from diycloud.core.options import options_from
from diycloud.core.settings_file import FIRST, set_key
from diycloud.core.steps import Step, StepFailed, run_steps
from diycloud.errors import HostError, InvalidInput
from diycloud.system.dry_run import DryRun
from diycloud.system.fake import Fake

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NAMES = ("cloud.example.org", "192.0.2.2", "2001:db8::5")
FOLDER = Path("/etc/diycloud/tls")


@pytest.fixture
def host() -> Fake:
    return Fake({str(FOLDER / "README"): ""})


def certificate(host: Fake, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((host.read(FOLDER / name) or "").encode())


def test_the_servers_certificate_verifies_for_each_name(host):
    assert tls.ensure_certificates(host, FOLDER, NAMES, NOW) == ["authority", "server"]
    policy = PolicyBuilder().store(Store([certificate(host, "ca.crt")])).time(NOW + timedelta(days=1))
    for name in NAMES:
        subject = x509.IPAddress(ipaddress.ip_address(name)) if name[0] in "12" else x509.DNSName(name)
        policy.build_server_verifier(subject).verify(certificate(host, "server.crt"), [])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("other.example.org")).verify(certificate(host, "server.crt"), [])


def test_keys_are_roots_alone(host):
    tls.ensure_certificates(host, FOLDER, NAMES, NOW)
    modes = {path: file.mode for path, file in host.files.items() if path.endswith((".key", ".crt"))}
    assert modes == {
        f"{FOLDER}/{name}.{kind}": 0o600 if kind == "key" else 0o644
        for name in ("ca", "server")
        for kind in ("key", "crt")
    }


def test_nothing_is_made_twice(host):
    tls.ensure_certificates(host, FOLDER, NAMES, NOW)
    before = dict(host.files)
    assert tls.ensure_certificates(host, FOLDER, NAMES, NOW + timedelta(days=300)) == []
    assert host.files == before


@pytest.mark.parametrize(
    ("days", "made"), [(tls.SERVER_DAYS - 29, ["server"]), (tls.AUTHORITY_DAYS - 29, ["authority", "server"])]
)
def test_it_is_renewed_before_its_end(host, days, made):
    tls.ensure_certificates(host, FOLDER, NAMES, NOW)
    later = NOW + timedelta(days=days)
    assert tls.ensure_certificates(host, FOLDER, NAMES, later) == made
    assert tls.read_expiry(host, FOLDER) == later + timedelta(days=tls.SERVER_DAYS)


def test_it_is_made_again_for_other_names(host):
    tls.ensure_certificates(host, FOLDER, NAMES, NOW)
    assert tls.ensure_certificates(host, FOLDER, [*NAMES, "new.example.org"], NOW) == ["server"]


@pytest.mark.parametrize("lost", ["ca.key", "ca.crt", "server.key", "server.crt"])
@pytest.mark.parametrize("damage", [None, "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_lost_or_damaged_is_made_again(host, lost, damage):
    tls.ensure_certificates(host, FOLDER, NAMES, NOW)
    if damage is None:
        host.remove(FOLDER / lost)
    else:
        host.write(FOLDER / lost, damage)
    made = tls.ensure_certificates(host, FOLDER, NAMES, NOW)
    assert made == (["authority", "server"] if lost.startswith("ca") else ["server"])
    assert certificate(host, "server.crt").verify_directly_issued_by(certificate(host, "ca.crt")) is None


def test_a_key_of_another_certificate_is_noticed(host):
    tls.ensure_certificates(host, FOLDER, NAMES, NOW)
    host.write(FOLDER / "server.key", host.read(FOLDER / "ca.key") or "")
    assert tls.ensure_certificates(host, FOLDER, NAMES, NOW) == ["server"]


def test_the_authority_signs_servers_and_nothing_below_them(host):
    tls.ensure_certificates(host, FOLDER, NAMES, NOW)
    constraints = certificate(host, "ca.crt").extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value == x509.BasicConstraints(ca=True, path_length=0)


def test_a_plan_shows_no_key():
    lines: list[str] = []
    tls.ensure_certificates(DryRun(Fake({str(FOLDER / "x"): ""}), lines.append), FOLDER, NAMES, NOW)
    assert any("ca.key" in line for line in lines)
    assert not any("PRIVATE" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Cloud.Example.Org", "cloud.example.org"),
        ("cloud.example.org.", "cloud.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("lab_7", "lab_7"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0::1", "2001:db8::1"),
    ],
)
def test_host_names(text, name):
    assert host_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a b",
        "a;b",
        "a\n",
        "a\nb",
        "-a",
        "a-",
        "a..b",
        "*.example.org",
        "x" * 64,
        "a/b",
        "$host",
        "{}",
        "~a",
        '"',
    ],
)
def test_what_could_not_stand_in_settings_is_no_host_name(text):
    with pytest.raises(InvalidInput):
        host_name(text)


def test_addresses_in_urls():
    assert in_url("2001:db8::1") == "[2001:db8::1]"
    assert in_url("cloud.example.org") == "cloud.example.org"


def test_options_come_from_arguments_then_environment():
    environ = {"DIYCLOUD_ADMIN_NAME": "chief", "DIYCLOUD_HTTPS_PORT": "8443", "DIYCLOUD_DOMAIN": "Cloud.Test"}
    options = options_from({"admin_name": "boss", "domain": None}, environ)
    assert (options.admin_name, options.https_port, options.domain) == ("boss", 8443, "cloud.test")


def test_the_password_comes_from_a_files_first_line(tmp_path):
    path = tmp_path / "password"
    path.write_text("pass phrase \nsecond line\n")
    assert options_from({"admin_password_file": str(path)}, {}).admin_password == "pass phrase "
    path.write_text("")
    with pytest.raises(InvalidInput, match="empty"):
        options_from({"admin_password_file": str(path)}, {})
    with pytest.raises(InvalidInput, match="cannot be read"):
        options_from({"admin_password_file": str(tmp_path / "none")}, {})


@pytest.mark.parametrize(
    "given",
    [
        {"https_port": 0},
        {"https_port": 65536},
        {"https_port": "http"},
        {"admin_name": "-x"},
        {"admin_name": "Root User"},
        {"admin_name": "a\n"},
        {"domain": "a b"},
        {"domain": "x;y"},
    ],
)
def test_bad_options_are_refused(given):
    with pytest.raises(InvalidInput):
        options_from(given, {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        FIRST,
        "# mine\nagent:\n  uid_min: 30000  # because\n",
        "server:\n",
        "server:\n  https_port: 443\n",
        "server:\n    # indented\n    http_port: 80\nagent:\n    uid_min: 30000\n",
        "server: # here\n  host_name: old\n\nagent: {uid_min: 30000}\n",
        "agent:\n  uid_min: 30000",
    ],
)
def test_one_key_is_set_and_the_rest_stays(text):
    changed = set_key(set_key(text, "server", "https_port", 8443), "server", "host_name", "cloud.example.org")
    before = yaml.safe_load(text) or {}
    expected = {
        **before,
        "server": {**(before.get("server") or {}), "https_port": 8443, "host_name": "cloud.example.org"},
    }
    assert yaml.safe_load(changed) == expected
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            assert line in changed
    assert set_key(changed, "server", "https_port", 8443) == changed


@pytest.mark.parametrize("text", ["- a\n", "server: 5\n", "server: {https_port: 1}\n", "a: [\n", "text"])
def test_settings_that_cannot_be_changed_by_line_are_refused(text):
    with pytest.raises(InvalidInput):
        set_key(text, "server", "https_port", 8443)


def test_steps_are_run_in_order_and_the_first_failure_is_named():
    lines: list[str] = []
    done: list[str] = []

    def good(context: str) -> str:
        done.append(context)
        return "all there"

    def bad(context: str) -> str:
        raise HostError("the disk is full")

    with pytest.raises(StepFailed, match=r"step 2 of 3 \(Second\) failed") as failure:
        run_steps([Step("First", good), Step("Second", bad), Step("Third", good)], "x", lines.append)
    assert str(failure.value.__cause__) == "the disk is full"
    assert done == ["x"]
    assert lines[0].startswith("[ 1/3] First ") and lines[0].endswith("all there")
    assert "FAILED" in lines[1] and len(lines) == 2


def test_listening_ports():
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n"
        "   0: 0100007F:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n"
        "   1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000\n"
    )
    six = "  sl  local\n   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0\n"
    assert parse_listening(table, six) == {443, 80}


def test_one_time_passwords_differ_and_can_be_read_aloud():
    made = {make_password() for _ in range(100)}
    assert len(made) == 100
    assert not set("".join(made)) & set("l1o0ABCDEFGHIJKLMNOPQRSTUVWXYZ")
