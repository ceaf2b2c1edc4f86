"""Tests of the launcher, which share one (conftest.py)."""
