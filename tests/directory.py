"""A real directory, OpenLDAP's slapd, on this machine: own folder, ports and certificate authority.

with Slapd(folder) as directory:
    directory.add_person("ada", "a password", mail="ada@example.org")
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from diycloud.core.certificates import Files, ensure_certificates
from diycloud.system import Local
from tests.waiting import free_port, until_it_listens

SUFFIX = "dc=example,dc=org"
PEOPLE, GROUPS = f"ou=people,{SUFFIX}", f"ou=groups,{SUFFIX}"
ROOT_DN, ROOT_PASSWORD = f"cn=root,{SUFFIX}", "root of the directory"
READER_DN, READER_PASSWORD = f"cn=reader,{SUFFIX}", "reads, and no more"
_CONF = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
moduleload ppolicy
pidfile {folder}/slapd.pid
TLSCACertificateFile {authority}
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
disallow bind_anon
database mdb
suffix "{suffix}"
rootdn "{root}"
rootpw "{password}"
directory {folder}/data
overlay memberof
overlay ppolicy
ppolicy_hash_cleartext
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{reader}" read by self read by users search by * none
"""


def cannot_run() -> str:
    """Return why there can be no directory here, empty if there can."""
    missing = [name for name in ("slapd", "ldapmodify") if shutil.which(name, path="/usr/sbin:/usr/bin") is None]
    return f"without {', '.join(missing)}: apt-get install slapd ldap-utils" if missing else ""


class Slapd:
    """One server. names: what its certificate is for."""

    def __init__(self, folder: Path, *, names: Iterable[str] = ("127.0.0.1", "localhost")) -> None:
        self.folder = folder
        self.port, self.tls_port = free_port(), free_port()
        self._names = tuple(names)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def ca_file(self) -> Path:
        return Files(self.folder / "tls").authority

    @property
    def password_file(self) -> Path:
        return self.folder / "reader.password"

    def __enter__(self) -> Slapd:
        (self.folder / "data").mkdir(parents=True)
        (self.folder / "tls").mkdir()
        self.folder.chmod(0o755)
        ensure_certificates(Local(), self.folder / "tls", self._names, datetime.now(UTC))
        files = Files(self.folder / "tls")
        files.authority.parent.chmod(0o755)
        self.password_file.write_text(f"{READER_PASSWORD}\n")
        (self.folder / "slapd.conf").write_text(
            _CONF.format(
                folder=self.folder, suffix=SUFFIX, root=ROOT_DN, password=ROOT_PASSWORD, reader=READER_DN,
                authority=files.authority, certificate=files.server, key=files.server_key,
            )
        )  # fmt: skip
        self.start()
        self.modify(
            f"dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n",
            *(f"dn: {dn}\nobjectClass: organizationalUnit\nou: {dn[3:].split(',')[0]}\n" for dn in (PEOPLE, GROUPS)),
            f"dn: {READER_DN}\nobjectClass: person\ncn: reader\nsn: reader\nuserPassword: {READER_PASSWORD}\n",
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        urls = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        with (self.folder / "slapd.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["/usr/sbin/slapd", "-f", str(self.folder / "slapd.conf"), "-h", urls, "-d", "0"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        until_it_listens(self.tls_port, self.process, (self.folder / "slapd.log").read_text)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=20)
            self.process = None

    def modify(self, *changes: str) -> None:
        """Apply LDIF as the directory's root: entries to add, or changes with their changetype."""
        argv = ["ldapmodify", "-a", "-x", "-H", f"ldap://127.0.0.1:{self.port}", "-D", ROOT_DN, "-w", ROOT_PASSWORD]
        done = subprocess.run(argv, input="\n".join(changes), text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr

    def add_person(self, uid: str, password: str, *, mail: str = "", name: str = "") -> None:
        lines = [
            f"dn: uid={uid},{PEOPLE}",
            "objectClass: inetOrgPerson",
            f"uid: {uid}",
            f"cn: {name or uid}",
            f"sn: {uid}",
        ]
        lines += [f"userPassword: {password}", *([f"mail: {mail}"] if mail else [])]
        self.modify("\n".join(lines) + "\n")

    def add_group(self, name: str, *uids: str) -> None:
        members = "".join(f"member: uid={uid},{PEOPLE}\n" for uid in uids)
        self.modify(f"dn: cn={name},{GROUPS}\nobjectClass: groupOfNames\ncn: {name}\n{members}")

    def set_members(self, name: str, *uids: str) -> None:
        members = "".join(f"member: uid={uid},{PEOPLE}\n" for uid in uids)
        self.modify(f"dn: cn={name},{GROUPS}\nchangetype: modify\nreplace: member\n{members}")

    def set_password(self, uid: str, password: str) -> None:
        self.modify(f"dn: uid={uid},{PEOPLE}\nchangetype: modify\nreplace: userPassword\nuserPassword: {password}\n")

    def remove_person(self, uid: str) -> None:
        self.modify(f"dn: uid={uid},{PEOPLE}\nchangetype: delete\n")
