"""Starts notebook servers: runs as root in the lab environment (config.Paths.lab_environment), warm, told by the agent."""
