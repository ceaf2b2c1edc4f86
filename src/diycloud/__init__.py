"""DIY Cloud: one account, one sign-in and one budget for everything a person runs on a Linux server."""

__version__ = "0.1.0"
