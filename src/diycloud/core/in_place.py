"""One request without the running server: the command line's way while the server is down."""

from __future__ import annotations

import json
import pwd
import sys
from typing import Any

from diycloud import config
from diycloud.config import Paths
from diycloud.errors import Unavailable
from diycloud.system import Local, Owner, System


def request_in_place(paths: Paths, request: dict[str, Any], system: System | None = None) -> tuple[int, str]:
    """Run a request in a child with the server's own uid; returns its HTTP status and body."""
    name = config.load(paths.config).agent.server_user
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise Unavailable(
            f"There is no account {name} to run the server as.", "Run `sudo ./install.sh` again."
        ) from None
    argv = [sys.executable, "-m", "diycloud.web.once", "--prefix", paths.prefix]
    result = (system or Local()).run(
        argv, input=json.dumps(request), timeout=900, user=Owner(account.pw_uid, account.pw_gid), cwd="/"
    )
    answer = json.loads(result.stdout)
    return int(answer["status"]), str(answer["body"])
