"""Configuration of the plain JupyterHub that notebooks are measured beside (notebook_hub.py)."""

import os

c = get_config()  # type: ignore[name-defined]  # noqa: F821
c.JupyterHub.bind_url = os.environ["BENCH_URL"]
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{os.environ['BENCH_HUB_PORT']}"
c.ConfigurableHTTPProxy.command = [os.environ["BENCH_PROXY"]]
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ['BENCH_API_PORT']}"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = os.environ["BENCH_PASSWORD"]
c.Authenticator.allow_all = True
c.JupyterHub.redirect_to_server = False
c.JupyterHub.db_url = "sqlite:///jupyterhub.sqlite"
c.JupyterHub.spawner_class = "localprocess"
c.Spawner.cmd = [f"{os.environ['BENCH_LAB']}/bin/jupyterhub-singleuser"]
c.Spawner.environment = {"PATH": f"{os.environ['BENCH_LAB']}/bin:/usr/bin:/bin"}
c.Spawner.start_timeout = c.Spawner.http_timeout = 180
c.JupyterHub.services = [{"name": "bench", "api_token": os.environ["BENCH_TOKEN"]}]
c.JupyterHub.load_roles = [
    {"name": "bench", "services": ["bench"], "scopes": ["admin:servers", "admin:users", "list:users"]},
]
