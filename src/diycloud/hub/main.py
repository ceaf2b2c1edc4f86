"""The hub of the notebooks: `python -I -m diycloud.hub.main [--prefix P]`, run as the user diycloud-hub.

Answers on one Unix socket (Paths.hub_socket), asks the agent for servers and the server about people, and has no privileges.
"""

from __future__ import annotations

import argparse
import os
import sys

from diycloud import config
from diycloud.config import Paths
from diycloud.errors import DiyCloudError
from diycloud.hub.app import Hub
from diycloud.hub.settings import make_config
from diycloud.log import configure_logging


def main() -> int:
    """Entry point; exit status 0 stopped, 1 could not start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", default="/")
    options = parser.parse_args()
    if os.geteuid() == 0:
        sys.stderr.write("The hub must not run as root. Start it with `diycloud up`.\n")
        return 1
    configure_logging()
    os.umask(0o077)
    paths = Paths(options.prefix)
    try:
        settings = config.load(paths.config)
        Hub.paths, Hub.settings = paths, settings
        Hub.instance(config=make_config(paths, settings))
        Hub.launch_instance(argv=[])
    except DiyCloudError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
