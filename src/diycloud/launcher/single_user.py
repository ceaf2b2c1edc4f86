"""JupyterHub's single-user JupyterLab, on a socket that it is given, and not waiting for the hub.

Sources: jupyterhub 6, singleuser/extension.py; jupyter_server 2, serverapp.py and extension/application.py.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable
from typing import Any

from jupyter_server.serverapp import ServerApp
from jupyterhub.singleuser import extension
from jupyterhub.singleuser.extension import JupyterHubSingleUser
from jupyterlab.commands import get_user_settings_dir, get_workspaces_dir
from traitlets.config import Config

from diycloud.launcher import hub_word, lab_settings, memory_kills, resources  # noqa: F401 - warm, for they are named in the settings
from diycloud.launcher.connections import Connections, SignOut, WatchedServer
from diycloud.launcher.request import Request

_HERE = "diycloud.launcher.single_user"
TOKEN = "JUPYTERHUB_API_TOKEN"  # noqa: S105 - a name
"""The server itself keeps it; its kernels and terminals, which get what is in the environment, have no use for it."""


class ListeningServer(ServerApp):
    """A Jupyter server that answers on a socket it is given: it binds nothing, and tells when it answers."""

    listener: socket.socket
    answers: Callable[[], None]
    no_browser_open_file = True  # Jupyter sets it by its flag only; the file would hold a token

    def init_httpserver(self) -> None:
        """Make the HTTP server. Jupyter's own looks for a free port or binds a path."""
        connections = Connections()
        path = f"{re.escape(self.base_url)}diycloud/sign-out"
        self.web_app.add_handlers(".*$", [(path, SignOut, {"connections": connections})])
        self._http_server = WatchedServer(
            self.web_app,
            xheaders=self.trust_xheaders,
            max_body_size=self.max_body_size,
            max_buffer_size=self.max_buffer_size,
        )
        self._http_server.connections = connections
        self.io_loop.add_callback(self._listen)

    def init_signal(self) -> None:
        """Handle SIGTERM in the loop. Jupyter's own handler logs at once, which raises in the midst of a log line: it stays."""
        super().init_signal()
        self.io_loop.asyncio_loop.add_signal_handler(signal.SIGTERM, self._signal_stop, signal.SIGTERM, None)

    def _listen(self) -> None:
        self._http_server.add_socket(self.listener)
        self.io_loop.add_callback(self.answers)

    def server_info(self) -> dict[str, Any]:
        """Return what goes into a file for the user's other programs: the hub's token is none of it."""
        return {**super().server_info(), "token": ""}


class SingleUser(JupyterHubSingleUser):
    """JupyterHub's extension of a Jupyter server: signs people in by the hub, tells it of activity."""

    serverapp_class = ListeningServer

    @classmethod
    def get_extension_package(cls) -> str:
        """Return where the extension is found."""
        return _HERE

    @classmethod
    def start_on(cls, listener: socket.socket, answers: Callable[[], None], config: Config) -> ListeningServer:
        """Make the server, ready to run. answers: called in its loop once it answers requests."""
        ListeningServer.listener, ListeningServer.answers = listener, staticmethod(answers)
        extension.HubOAuth = hub_word.LastingHubAuth  # no setting names it
        server: ListeningServer = cls.initialize_server(argv=[], config=config)
        app = server.extension_manager.extension_points[cls.name].app
        for hub_auth in (server.identity_provider.hub_auth, app.hub_auth):
            hub_auth.api_token = os.environ.get(TOKEN, "")  # else read when first used: not in the environment by then
        os.environ.pop(TOKEN, None)
        return server

    async def check_hub_version(self) -> None:
        """Do without the question: Jupyter's own waits for the hub, and ends the server if that is away for a minute.

        Hub and servers are installed together, in versions that belong together; and a hub that is busy delays no notebook.
        """


def configuration(request: Request) -> Config:
    """Return the platform's settings of a server. Those in the environment's and the user's files come after them."""
    config = lab_settings.settings(request)
    config.HubAuth.cache_max_age = hub_word.LASTS_S
    _set_what_imports_fixed(config, request)
    return config


def _set_what_imports_fixed(config: Config, request: Request) -> None:
    """Set what Jupyter reads from the environment when it is imported: that was the launcher's, which is nobody's.

    tests/host/launcher finds out whether there is more of it.
    """
    environment = request.environment
    config.HubAuth.base_url = environment.get("JUPYTERHUB_SERVICE_PREFIX", "/")  # also the path of its cookies
    for key in ("allow_token_in_url", "allow_websocket_cookie_auth"):
        if value := environment.get(f"JUPYTERHUB_{key.upper()}"):
            config.HubAuth[key] = value.lower() not in ("0", "false")
    config.LabApp.user_settings_dir = get_user_settings_dir()
    config.LabApp.workspaces_dir = get_workspaces_dir()
    config.Session.username = request.name


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": _HERE, "app": SingleUser}]
