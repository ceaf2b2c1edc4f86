"""Notebook servers through the real agent and the real launcher, on this host's own cgroups (v1), on one host (conftest.py)."""
