"""`python -m diycloud.core.renewal`: keep the certificate and Nginx's site in step with time and the host's names.

Run once a day by the service diycloud-renewal. Changes something about once a year, or when an address changed.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from diycloud.core import certificates, notebook_steps
from diycloud.core.installation import Installation
from diycloud.core.options import InstallOptions
from diycloud.errors import DiyCloudError
from diycloud.system import Local


def renew(here: Installation) -> list[str]:
    """Renew what is due; returns what was: `authority`, `server`, `site`. Nginx takes it up at once. Raises HostError."""
    done = certificates.ensure_certificates(
        here.system, here.paths.certificates, here.certified_names, datetime.now(UTC)
    )
    if here.nginx.ensure(here.site).changed:
        done.append("site")
    if done:
        notebook_steps.sign_in(here)  # people come back from signing in to the name that they typed
        here.platform.reload_nginx()
    return done


def main() -> int:
    """Entry point; prints what was renewed. Exit status 0 done, 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", default="/")
    try:
        done = renew(Installation(Local(), InstallOptions(prefix=parser.parse_args().prefix)))
    except DiyCloudError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if done:
        sys.stdout.write(f"renewed: {', '.join(done)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
