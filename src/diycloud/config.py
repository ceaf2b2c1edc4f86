"""Where things are, and what can be set.

Paths: every place of the platform's own, all under one prefix. Settings: /etc/diycloud/config.yaml, typed and checked;
DIYCLOUD_<KEY> in the environment overrides (nested keys with two underscores). Secrets live in files of their own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from diycloud.config_names import Folder, NameOrAddress
from diycloud.config_notebooks import NotebookSettings
from diycloud.config_sign_in import SignInSettings
from diycloud.errors import InvalidInput

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
POSTGRESQL = r"\A(postgresql://(?!\S*password=)([^:@/?#\s]*@)?[^@\s]*)?\Z"
"""A URL as libpq takes it, without a password: settings are shown to whoever asks."""


class Paths(msgspec.Struct, frozen=True):
    """The platform's own places. prefix: `/`, or a folder for tests and packagers."""

    prefix: str = "/"

    def _at(self, path: str) -> Path:
        return Path(self.prefix) / path

    @property
    def program(self) -> Path:
        return self._at("opt/diycloud")

    @property
    def config_dir(self) -> Path:
        return self._at("etc/diycloud")

    @property
    def config(self) -> Path:
        return self.config_dir / "config.yaml"

    @property
    def certificates(self) -> Path:
        return self.config_dir / "tls"

    @property
    def state(self) -> Path:
        """The server's state, 0700, owned by the server's user."""
        return self._at("var/lib/diycloud/server")

    @property
    def database(self) -> Path:
        return self.state / "users.db"

    @property
    def secret_key(self) -> Path:
        """The server's key, which opens what is sealed in the database (db/vault.py)."""
        return self.state / "secret.key"

    @property
    def agent_state(self) -> Path:
        """The agent's state, 0700, root's."""
        return self._at("var/lib/diycloud/agent")

    @property
    def managed(self) -> Path:
        """The agent's own truth (agent/registry.py)."""
        return self.agent_state / "managed"

    @property
    def groups(self) -> Path:
        """The groups of the agent's (agent/group_registry.py)."""
        return self.agent_state / "groups"

    @property
    def keys(self) -> Path:
        """Users' SSH keys, one file each, which sshd reads."""
        return self._at("var/lib/diycloud/keys")

    @property
    def sign_in(self) -> Path:
        """What PAM's modules ask of users (host/pam_files.py); root's only."""
        return self._at("var/lib/diycloud/sign-in")

    @property
    def hub_environment(self) -> Path:
        """The hub's own virtual environment."""
        return self.program / "jupyter" / "hub"

    @property
    def lab_environment(self) -> Path:
        """The virtual environment of users' notebook servers and of the default kernel."""
        return self.program / "jupyter" / "lab"

    @property
    def kernels(self) -> Path:
        """Shared environments (`envs/NAME`) and their kernels (`share/jupyter/kernels/NAME`), root's."""
        return self._at("opt/diycloud/jupyter/shared")

    @property
    def hub_state(self) -> Path:
        """The hub's state, 0700, owned by the hub's user."""
        return self._at("var/lib/diycloud/hub")

    @property
    def hub_client(self) -> Path:
        """JSON: client_id and client_secret, with which the hub asks the portal who somebody is."""
        return self.hub_state / "client.json"

    @property
    def hub_token(self) -> Path:
        """The token with which the server asks the hub; `portal_token` is the server's copy."""
        return self.hub_state / "portal.token"

    @property
    def portal_token(self) -> Path:
        return self.state / "hub.token"

    @property
    def notebook_tmp(self) -> Path:
        """0711, root's: a folder of each user's (by UID), which their notebooks see as /tmp."""
        return self._at("var/lib/diycloud/notebooks/tmp")

    @property
    def logs(self) -> Path:
        return self._at("var/log/diycloud")

    @property
    def run(self) -> Path:
        return self._at("run/diycloud")

    @property
    def install_lock(self) -> Path:
        """Held by whoever installs or uninstalls (core/lock.py)."""
        return self._at("run/diycloud-install.lock")

    @property
    def agent_socket(self) -> Path:
        """In a folder 0750 root:diycloud."""
        return self.run / "agent" / "agent.sock"

    @property
    def server_socket(self) -> Path:
        """In a folder 0750 diycloud:<Nginx's group>."""
        return self.run / "server" / "server.sock"

    @property
    def hub_socket(self) -> Path:
        """In a folder 0755 of the hub's user, itself 0666: users' servers ask the hub, which believes tokens only."""
        return self.run / "hub" / "hub.sock"

    @property
    def launcher_socket(self) -> Path:
        """In a folder 0700 of root's: only the agent has notebooks started."""
        return self.run / "launcher" / "launcher.sock"

    @property
    def notebooks(self) -> Path:
        """0711, root's. `sockets/NAME.sock` and `sockets/NAME+SERVER.sock` (agent/notebooks.py has the rest)."""
        return self.run / "notebooks"


class AgentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the agent may do. It reads these itself; no message changes them."""

    uid_min: Annotated[int, msgspec.Meta(ge=1000, le=2_000_000_000)] = 20_000
    """The first UID for users. UIDs are never given twice."""
    uid_max: Annotated[int, msgspec.Meta(ge=1000, le=2_000_000_000)] = 59_999
    """The last UID for users."""
    gid_min: Annotated[int, msgspec.Meta(ge=1000, le=2_000_000_000)] = 10_000
    """The first GID for groups. GIDs are never given twice; numbers of the UIDs' range are left out."""
    gid_max: Annotated[int, msgspec.Meta(ge=1000, le=2_000_000_000)] = 19_999
    """The last GID for groups."""
    server_user: str = "diycloud"
    """The account the server runs as; besides root only it may talk to the agent."""
    home: str = "/home"
    """The folder of the homes."""
    shared: Folder = "/srv/diycloud"
    """The folder of the groups' shared folders; not the one of the homes."""
    cgroup: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9_-]{0,63}\Z")] = "user"
    """Without systemd: the folder under each controller's root that holds the slices."""
    allowed_groups: tuple[str, ...] = ()
    """Supplementary groups the server may put users in. Never sudo, wheel, docker, disk, shadow, adm, lxd, kvm."""
    allow_sudo: bool = False
    """Whether root may make users administrators of the host: diycloud user sudo."""
    archive: Folder = "/var/backups/diycloud"
    """The folder, for root only, of the archives of purged users' homes."""
    trash_hours: Annotated[int, msgspec.Meta(ge=0, le=8760)] = 24
    """How long the home of a purged user, or the folder of a removed group, is kept."""


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server answers to."""

    host_name: NameOrAddress = ""
    """The name people type; empty: the host's own."""
    https_port: Port = 443
    """Where Nginx answers."""
    http_port: Port = 80
    """Where Nginx sends people on to HTTPS."""
    session_idle_minutes: Annotated[int, msgspec.Meta(ge=1, le=43_200)] = 120
    """A session that is not used for so long ends."""
    session_max_hours: Annotated[int, msgspec.Meta(ge=1, le=8760)] = 24
    """A session ends after so long, used or not."""
    password_min_length: Annotated[int, msgspec.Meta(ge=8, le=64)] = 12
    """The fewest characters of a password that somebody chooses."""
    password_max_age_days: Annotated[int, msgspec.Meta(ge=0, le=3650)] = 0
    """After so many days a password must be changed at the next sign-in; 0 for never, as NIST SP 800-63B advises."""
    password_history: Annotated[int, msgspec.Meta(ge=0, le=24)] = 0
    """How many of their earlier passwords somebody may not choose again; 0 for none."""
    first_password_days: Annotated[int, msgspec.Meta(ge=0, le=365)] = 14
    """A password for one time (generated, or given to be changed) holds for so many days; 0 for ever."""
    requests_per_minute: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1200
    """How many requests a session or API token may send in a minute; 0 for no limit."""
    strangers_per_minute: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 60
    """How many an address may send on which nobody is signed in (IPv6: a /64), ten times as many to sign in; 0 for no limit."""
    second_factor_roles: tuple[Annotated[str, msgspec.Meta(pattern=r"\A(admin|domain-admin|monitor|user)\Z")], ...] = ()
    """Roles that must have a second factor, such as `[admin]`; policies can ask for one too (`second_factor`)."""
    oidc_access_minutes: Annotated[int, msgspec.Meta(ge=1, le=1440)] = 10
    """How long access tokens and ID tokens hold that applications get for people."""
    oidc_refresh_days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 30
    """A refresh token that is not used for so many days ends."""
    oidc_key_days: Annotated[int, msgspec.Meta(ge=0, le=3650)] = 90
    """After so many days ID tokens are signed with a new key; 0: only by `diycloud app rotate-keys`."""
    audit_days: Annotated[int, msgspec.Meta(ge=1, le=36_500)] = 365
    """How long the audit is kept."""
    refuse_overcommit: bool = False
    """Refuse limits that promise more than the factors below allow, instead of warning."""
    overcommit_cpu: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 4.0
    """How many times the host's cores may be promised."""
    overcommit_memory: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.5
    """How many times the host's memory may be promised."""
    database: Annotated[str, msgspec.Meta(pattern=POSTGRESQL)] = ""
    """Empty: a SQLite file. Else the URL of a PostgreSQL database, without a password, such as `postgresql:///diycloud`."""
    database_password_file: Annotated[str, msgspec.Meta(pattern=r"\A(/[^\x00\n]+)?\Z")] = ""
    """A file whose first line is the password for PostgreSQL; the server's account must be able to read it."""

    @property
    def name(self) -> str:
        """The name people type; the host's own where none is set."""
        return self.host_name or socket.gethostname()

    @property
    def address(self) -> str:
        """The portal's whole address, with a slash at its end."""
        host = f"[{self.name}]" if ":" in self.name else self.name
        return f"https://{host}{'' if self.https_port == 443 else f':{self.https_port}'}/"


class MetricsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is counted for Prometheus, at `/metrics` (docs/how-to/metrics.md)."""

    enabled: bool = True
    """Whether the server counts, and answers there."""
    per_user: bool = False
    """Whether users' names are told too, with what their running notebook servers use."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of config.yaml."""

    agent: AgentSettings = AgentSettings()
    server: ServerSettings = ServerSettings()
    sign_in: SignInSettings = SignInSettings()
    notebooks: NotebookSettings = NotebookSettings()
    metrics: MetricsSettings = MetricsSettings()

    @property
    def notebooks_address(self) -> str:
        """Where notebooks with a host name of their own are, without a slash at the end; empty: at the portal's address."""
        if not self.notebooks.host:
            return ""
        return f"https://{self.notebooks.host}{'' if self.server.https_port == 443 else f':{self.server.https_port}'}"


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; a missing file means the defaults.

    Raises InvalidInput with the file, line, key and what is allowed there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    return parse(text, path, environ)


def parse(text: str, path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of a text. path: named in errors. Raises InvalidInput as `load`."""
    import yaml  # 20 ms that short verbs do not pay

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path} is not YAML: {error}", "Compare it with docs/reference/settings.md.") from error
    if not isinstance(values, dict):
        raise InvalidInput(f"{path}: the settings are not a mapping.", "Write `server:` and keys below it.")
    lines = _lines(node)
    for key, value in environ.items():
        if key.startswith("DIYCLOUD_") and "__" in key:
            section, _, name = key.removeprefix("DIYCLOUD_").lower().partition("__")
            lines[f"{section}.{name}"] = f"environment variable {key}"
            if values.get(section) is None:
                values[section] = {}
            if isinstance(values[section], dict):  # else _check says what is wrong with it
                values[section][name] = _variable(key, value)
    return _check(values, lines, path)


def _variable(key: str, text: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput(f"The environment variable {key} is not YAML: {error}.") from error


def _check(values: dict[str, object], lines: dict[str, str], path: Path) -> Settings:
    found: dict[str, object] = {}
    for section in msgspec.structs.fields(Settings):
        given = values.pop(section.name, None) or {}
        if not isinstance(given, dict):
            raise InvalidInput(f"{path}, {lines.get(section.name, '')}: {section.name} is a section of keys.")
        known = {field.name: field for field in msgspec.structs.fields(section.type)}
        for name, value in given.items():
            where = f"{path}, {lines.get(f'{section.name}.{name}', '?')}: {section.name}.{name}"
            if name not in known:
                raise InvalidInput(f"{where} is no setting.", f"There are: {', '.join(known)}.")
            try:
                msgspec.convert(value, known[name].type, strict=True)
            except msgspec.ValidationError as error:
                raise InvalidInput(_in_words(value, known[name].type, f"{section.name}.{name}", lines, path)) from error
        try:
            found[section.name] = msgspec.convert(given, section.type)
        except msgspec.ValidationError as error:  # what only the keys of a section together show
            raise InvalidInput(f"{path}, {lines.get(section.name, '?')}: {section.name}: {error}.") from error
    if values:
        name = next(iter(values))
        raise InvalidInput(
            f"{path}, {lines.get(str(name), '?')}: {name} is no section.",
            f"There are: {', '.join(f.name for f in msgspec.structs.fields(Settings))}.",
        )
    settings = Settings(**found)  # type: ignore[arg-type]
    if settings.notebooks.host and settings.notebooks.host == settings.server.name.lower():
        raise InvalidInput(
            f"{path}, {lines.get('notebooks.host', '?')}: notebooks.host is the portal's own name.",
            "Notebooks need another name of this host, or none (empty).",
        )
    return settings


def _in_words(value: object, kind: object, key: str, lines: dict[str, str], path: Path) -> str:
    """Return what is wrong with a setting, at the line of the part that it is about."""
    from diycloud.config_words import explain  # only needed for mistakes

    where, said = explain(value, kind)
    line = lines.get(f"{key}{where}") or lines.get(key, "?")
    return f"{path}, {line}: {key}{where} {said}"


def _lines(node: object) -> dict[str, str]:
    """Return `section.key` → `line N` of a YAML document."""
    found: dict[str, str] = {}

    def walk(part: object, above: str) -> None:
        for key, value in getattr(part, "value", None) or ():
            if hasattr(key, "start_mark"):
                name = f"{above}{key.value}"
                found[name] = f"line {key.start_mark.line + 1}"
                if getattr(value, "id", "") == "mapping":
                    walk(value, f"{name}.")

    walk(node, "")
    return found
