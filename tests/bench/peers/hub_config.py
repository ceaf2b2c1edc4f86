# JupyterHub's configuration for the benches; BENCH_* in the environment say where.
# No proxy: the benches ask the hub's own port. A proxy adds a hop to every request and changes nothing in the hub.
import os

from jupyterhub.proxy import Proxy


class NoProxy(Proxy):
    """Remembers the routes that the hub wants, and routes nothing."""

    should_start = False

    def __init__(self, **options):
        super().__init__(**options)
        self.wanted = {}

    async def add_route(self, routespec, target, data):
        self.wanted[routespec] = {"routespec": routespec, "target": target, "data": data}

    async def delete_route(self, routespec):
        self.wanted.pop(routespec, None)

    async def get_all_routes(self):
        return dict(self.wanted)


c = get_config()  # noqa: F821
c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.hub_bind_url = os.environ["BENCH_HUB"]
c.JupyterHub.db_url = os.environ["BENCH_DB"]
c.JupyterHub.cookie_secret_file = os.environ["BENCH_DB"].removeprefix("sqlite:///") + ".cookie"
c.JupyterHub.log_level = "WARN"
c.JupyterHub.authenticator_class = "dummy"  # PAM would want an account on the host for every user
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"benchadmin"}
c.JupyterHub.services = [{"name": "bench", "api_token": os.environ["BENCH_TOKEN"]}]
c.JupyterHub.load_roles = [{"name": "bench", "scopes": ["admin:users", "tokens"], "services": ["bench"]}]
