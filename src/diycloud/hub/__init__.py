"""The notebooks: JupyterHub as part of the platform. Runs in the hub's own environment (config.Paths.hub_environment)."""
