"""Tests that share one hub (conftest.py). Those that need one with other settings are beside this folder: test_hub_*.py."""
