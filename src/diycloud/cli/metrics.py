"""`diycloud metrics`: what the server counts, and what Prometheus needs to fetch it by itself."""

from __future__ import annotations

import argparse
import sys

TOKEN_FILE = "/etc/prometheus/diycloud.token"  # noqa: S105 - a path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `diycloud metrics` its options."""
    parser.add_argument(
        "--scrape-config", action="store_true", help="print the section that Prometheus' own settings need, instead"
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        default=TOKEN_FILE,
        help=f"where Prometheus finds its token; default: {TOKEN_FILE}",
    )
    parser.add_argument(
        "--authority-file", metavar="FILE", default="",
        help="where it finds the authority of the portal's certificate; default: this machine's own",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Print the metrics, or what fetches them."""
    from diycloud.cli.transport import Target, checked, send

    target = Target.of(arguments)
    if arguments.scrape_config:
        sys.stdout.write(scrape_config(target.paths.prefix, arguments.token_file, arguments.authority_file))
        return 0
    checked(send(target, "GET", "/metrics", {}, None, sink=sys.stdout.buffer.write))
    return 0


def scrape_config(prefix: str, token_file: str, authority_file: str) -> str:
    """Return a section `scrape_configs` of Prometheus' settings for this server. Raises InvalidInput for wrong settings."""
    import json

    from diycloud import config
    from diycloud.config import Paths

    paths = Paths(prefix)
    server = config.load(paths.config).server
    host = f"[{server.name}]" if ":" in server.name else server.name
    authority = authority_file or str(paths.certificates / "ca.crt")
    return f"""\
# A token for it, which ends by itself after its days, kept where nobody but Prometheus' account can read it:
#   diycloud token create YOUR-NAME --label prometheus --scopes metrics:read --days 366
scrape_configs:
  - job_name: diycloud
    scheme: https
    metrics_path: /metrics
    authorization:
      credentials_file: {json.dumps(token_file)}
    tls_config:
      ca_file: {json.dumps(authority)}
    static_configs:
      - targets: [{json.dumps(f"{host}:{server.https_port}")}]
"""
