"""Two domains with their people, and everybody's token: what tests of attacks from within begin with."""

from __future__ import annotations

from typing import Any

import httpx

from diycloud.core.routes import PREFIX
from tests.app.restful import PASSWORD, World

USERS = f"{PREFIX}/users"
KEY = "0123456789abcdef0123456789abcdef"
SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6Jt7Qy1Vw1cGkJvGkzqfN0uYbq0sA4uG0tYc0Yc1p1 me@home"


class Town(World):
    """Two domains with an administrator and a user each, a monitor and an administrator; everyone's token by name."""

    def fill(self) -> None:
        self.tokens = {"admin": self.first_admin()}
        small = {"name": "small", "cpu": 0.5, "memory": "1G", "max_cpu": 1, "max_memory": "2G", "max_disk": "10G"}
        self.root("POST", "/policies", json=small)
        for domain, head, user in (("physics", "head", "ada"), ("biology", "chief", "bob")):
            self.root("POST", "/domains", json={"name": domain, "policy": "small"})
            self.add(head, domain=domain, role="domain-admin")
            self.add(user, domain=domain)
            self.root("POST", "/groups", json={"name": f"{domain}-lab", "domain": domain, "members": [user]})
        self.add("watcher", domain="physics", role="monitor")

    def add(self, name: str, **fields: Any) -> None:
        self.root("POST", "/users", json={"username": name, "password": PASSWORD, **fields})
        self.tokens[name] = self.token(name, PASSWORD)

    def root(self, method: str, path: str, **more: Any) -> httpx.Response:
        answer = self.ask(method, PREFIX + path, **more)
        assert answer.status_code < 300, answer.text
        return answer

    def by(self, who: str, method: str, path: str, **more: Any) -> httpx.Response:
        return self.ask(method, PREFIX + path, token=self.tokens[who], **more)

    def column(self, name: str, of: str = "ada") -> Any:
        return self.sql(f"SELECT {name} FROM users WHERE username = ?", of)[0][0]
