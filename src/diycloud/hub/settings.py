"""JupyterHub's configuration, made from the platform's settings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from traitlets.config import Config

import diycloud
from diycloud.config import Paths, Settings
from diycloud.errors import InvalidInput, NotFound
from diycloud.hub import addresses
from diycloud.hub.addresses import BASE
from diycloud.hub.authenticator import ADMINISTRATORS, ALWAYS, PasswordAuthenticator, PortalAuthenticator
from diycloud.hub.proxy import ComputedRoutes
from diycloud.hub.spawner import PlatformSpawner, socket_url

QUEUE_S = 600
"""How long a server waits for its turn at most while others are starting."""
POLL_S = 5
ACTIVITY_S = 60
"""How often a server tells the hub that it is used."""
TOKEN_DAYS = 366
COOKIES = {"samesite": "Lax", "secure": True}
COOKIE_DAYS = 1
PORTAL_SCOPES = ("admin:users", "servers", "tokens", "read:hub", "read:metrics")
"""The server's: it makes users known that come for the first time, starts and stops servers, revokes tokens."""
USER_SCOPES = (
    "read:users!user", "users:activity!user", "servers!user", "tokens!user", "access:servers!user"
)  # fmt: skip
"""What JupyterHub gives users (`self`), without sharing servers with others."""
ADMIN_SCOPES = (
    "admin-ui",
    "list:users",
    "read:users",
    "read:groups",
    "list:groups",
    "read:servers",
    "delete:servers",
    "read:hub",
)
"""The portal's administrators': seeing and stopping servers. Not JupyterHub's role `admin`, which enters others' servers."""


class Client(msgspec.Struct, frozen=True):
    """The hub as an application of the portal's (Paths.hub_client)."""

    client_id: str
    client_secret: str


def make_config(paths: Paths, settings: Settings) -> Config:
    """Return the configuration. Raises NotFound if the hub is not set up, InvalidInput for a prefix it cannot take."""
    if paths.prefix != paths.prefix.lower():
        raise InvalidInput(
            f"The hub cannot use the prefix {paths.prefix}.",
            "Its sockets' paths must be in small letters; choose another.",
        )
    config = Config()
    # No `public_url`: a host has several names, and people are to stay at the one they came by.
    _set_hub(config.JupyterHub, paths, settings)
    _set_spawner(config.Spawner, settings)
    if settings.notebooks.sign_in == "pam":
        config.JupyterHub.authenticator_class = PasswordAuthenticator
    else:
        config.JupyterHub.authenticator_class = PortalAuthenticator
        _set_client(config.PortalAuthenticator, paths, addresses.portal(settings))
    _set_authenticator(config.Authenticator)
    return config


def _set_hub(hub: Any, paths: Paths, settings: Settings) -> None:
    address = socket_url(str(paths.hub_socket))
    hub.bind_url = f"http://127.0.0.1{BASE}"  # its path counts; Nginx listens, not the hub
    hub.hub_bind_url = hub.hub_connect_url = address
    hub.hub_socket_mode = 0o666
    hub.db_url = f"sqlite:///{paths.hub_state}/jupyterhub.sqlite"
    hub.upgrade_db = True
    hub.cookie_secret_file = str(paths.hub_state / "cookie_secret")
    hub.cookie_max_age_days = COOKIE_DAYS
    hub.token_expires_in_max_seconds = TOKEN_DAYS * 86_400
    hub.spawner_class, hub.proxy_class = PlatformSpawner, ComputedRoutes
    hub.cleanup_servers = hub.cleanup_proxy = False
    hub.admin_access = False
    hub.shutdown_on_logout = False
    hub.allow_named_servers = settings.notebooks.named_servers > 0
    hub.named_server_limit_per_user = settings.notebooks.named_servers
    hub.concurrent_spawn_limit = 0  # Hub.turns has them wait instead of failing
    hub.authenticate_prometheus = True
    hub.trusted_downstream_ips = []
    hub.init_spawners_timeout = 30
    hub.activity_resolution = 30
    hub.template_paths = [str(Path(__file__).parent / "templates")]
    hub.template_vars = {"asset": _assets(), "portal_host": settings.server.name, "portal": addresses.portal(settings)}
    hub.services = [{"name": "portal", "api_token": _read(paths.hub_token).strip(), "display": False}]
    hub.trust_user_provided_tokens = True  # the portal's is random: no thousands of hash rounds at each request
    hub.load_roles = [
        {"name": "portal", "description": "The portal", "scopes": list(PORTAL_SCOPES), "services": ["portal"]},
        {"name": "user", "description": "Users", "scopes": list(USER_SCOPES)},
        {"name": "portal-admin", "description": "The portal's administrators", "scopes": list(ADMIN_SCOPES),
         "groups": [ADMINISTRATORS]},
    ]  # fmt: skip
    hub.tornado_settings = {"slow_spawn_timeout": 10, "slow_stop_timeout": 10, "cookie_options": COOKIES}


def _set_spawner(spawner: Any, settings: Settings) -> None:
    spawner.start_timeout = settings.notebooks.start_seconds + QUEUE_S
    spawner.http_timeout = settings.notebooks.start_seconds
    spawner.poll_interval = POLL_S
    spawner.default_url = "/lab"
    spawner.environment = {"JUPYTERHUB_ACTIVITY_INTERVAL": str(ACTIVITY_S), **addresses.environment(settings)}
    spawner.consecutive_failure_limit = 0


def _set_authenticator(authenticator: Any) -> None:
    """What holds for every way of signing in."""
    authenticator.allow_all = True
    authenticator.manage_groups = True
    authenticator.enable_auth_state = False
    authenticator.auth_refresh_age = ALWAYS
    authenticator.auth_refresh_strict = True
    authenticator.refresh_pre_spawn = True


def _set_client(authenticator: Any, paths: Paths, portal: str) -> None:
    """The hub as an application of the portal's, at whatever name of the host people came by (PortalAuthenticator)."""
    client = msgspec.json.decode(_read(paths.hub_client), type=Client)
    authenticator.client_id, authenticator.client_secret = client.client_id, client.client_secret
    authenticator.authorize_url = f"{portal}oidc/authorize"
    authenticator.token_url, authenticator.userdata_url = "/oidc/token", "/oidc/userinfo"
    authenticator.logout_redirect_url = portal
    authenticator.scope = ["openid", "profile"]
    authenticator.username_claim = "preferred_username"
    authenticator.login_service = "DIY Cloud"
    authenticator.auto_login = authenticator.auto_login_oauth2_authorize = True


def _assets() -> Any:
    """Return what makes addresses of the portal's static files; Nginx serves them under any version (templates/nginx)."""
    static = Path(diycloud.__file__).parent / "web" / "static"
    version = hashlib.sha256((static / "app.css").read_bytes()).hexdigest()[:12]
    return {name: f"/static/{version}/{name}" for name in ("app.css", "mark.svg")}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise NotFound(f"{path} cannot be read ({error.strerror}).", "`diycloud jupyter setup` makes it.") from error
