"""Our one site in the distribution's Nginx.

It is tested with `nginx -t` before anything is reloaded and taken back if it is refused. Other people's sites are left
as they are: another default server keeps its place (only the distribution's own, untouched one gives way).
Sources: nginx.org, ngx_http_core_module (listen, server_name), ngx_http_v2_module (`http2 on` since 1.25.1).
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from diycloud.config import Paths
from diycloud.config_notebooks import NotebookSettings
from diycloud.core.certificates import Files
from diycloud.core.names import in_url
from diycloud.distro.render import render
from diycloud.distro.tables import NginxLayout
from diycloud.errors import HostError
from diycloud.notebooks.doors import ENTER
from diycloud.system import System

SITE = "diycloud"
BODY_SIZE = "16m"
"""Enough for a CSV of tens of thousands of users."""
_HTTP2_DIRECTIVE = (1, 25, 1)

_NAME = "[a-z_][a-z0-9_-]{0,31}"
_SERVER_NAME = "[a-z0-9-]{1,30}"
_EXTENSION = "(@[A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*"
_HASHED = r"([A-Za-z0-9_-]+\.)?[0-9a-f]{16,64}\.[a-z0-9]+"
"""Files of JupyterLab's whose names change with their content, such as `main.6d69ea3ffd340c2c.js`."""
_COOKIES_TAKEN_OUT = 6
"""So many of the portal's cookies are taken out one by one; it has fewer."""
_OF_A_WHOLE_SITE = (
    "Accept-CH",
    "Alt-Svc",
    "Clear-Site-Data",
    "Critical-CH",
    "Expect-CT",
    "Link",
    "NEL",
    "Origin-Agent-Cluster",
    "Public-Key-Pins",
    "Refresh",
    "Report-To",
    "Reporting-Endpoints",
    "Sec-Session-Registration",
    "Secure-Session-Registration",
    "Service-Worker-Allowed",
    "Set-Login",
    "Speculation-Rules",
    "Strict-Transport-Security",
    "Use-As-Dictionary",
)
"""Headers that would take effect on the portal's pages when a user's own server sends them, or send its visitors on."""

_INCLUDE = re.compile(r"\binclude\s+([^;]+?)\s*;")
_LISTEN = re.compile(r"\blisten\s+([^;]+);")


class Notebooks(msgspec.Struct, frozen=True):
    """What our site needs to know of notebooks.

    sockets, runtime: folders with a socket, and a folder, of each server (agent/notebooks.py). lab: the environment whose
    files are served. guard_cache: a folder in memory that Nginx makes itself. asks_passwords: the hub's own page does.
    host: a name of their own, on which there is nothing of the portal; empty: they are at the portal's names.
    """

    hub_socket: Path
    sockets: Path
    runtime: Path
    lab: Path
    guard_cache: Path
    asks_passwords: bool = False
    host: str = ""
    body_size: str = "1g"


def notebook_places(paths: Paths, settings: NotebookSettings) -> Notebooks:
    """Return what the site needs to know of notebooks from where the platform's places are."""
    return Notebooks(
        hub_socket=paths.hub_socket,
        sockets=paths.notebooks / "sockets",
        runtime=paths.notebooks / "runtime",
        lab=paths.lab_environment,
        guard_cache=paths.run.parent / "diycloud-guard",
        asks_passwords=settings.sign_in == "pam",
        host=settings.host,
    )


class Site(msgspec.Struct, frozen=True):
    """What our site needs to know. names: checked host names and addresses. folder: for the page shown when we are away.

    notebooks: None where there are none.
    """

    names: tuple[str, ...]
    https_port: int
    http_port: int
    socket: Path
    certificates: Path
    static: Path
    folder: Path
    notebooks: Notebooks | None = None

    @property
    def away_page(self) -> Path:
        return self.folder / "away.html"

    @property
    def disabled_default(self) -> Path:
        """Remembers that the distribution's default site was taken out of use, for uninstall."""
        return self.folder / "default-site-disabled"


class SiteReport(msgspec.Struct, frozen=True):
    """What became of it. notes: what people should know, such as another default server or Nginx's own warnings."""

    changed: bool
    notes: tuple[str, ...] = ()


def render_site(site: Site, *, default: bool, ipv6: bool, http2_directive: bool, gzip_static: bool = False) -> str:
    """Return the site's file. default: it also answers requests for other names. gzip_static: this Nginx has the module."""
    files = Files(site.certificates)
    names = [in_url(name) for name in site.names]
    own = site.notebooks.host if site.notebooks else ""
    flags = ["ssl"] if http2_directive else ["ssl", "http2"]
    return render(
        "nginx/site.conf",
        socket=site.socket,
        names=" ".join([*names, "_"] if default else names),
        all_names=" ".join([*names, *filter(None, [own]), *(["_"] if default else [])]),
        port_suffix="" if site.https_port == 443 else f":{site.https_port}",
        http_listen=_listens(site.http_port, ipv6, [], default),
        https_listen=_listens(site.https_port, ipv6, flags, default),
        own_listen=_listens(site.https_port, ipv6, flags, default=False),
        http2_directive=http2_directive,
        certificate=files.server,
        key=files.server_key,
        authority=files.authority,
        body_size=BODY_SIZE,
        static=site.static,
        away_page=site.away_page,
        away_style=_style_hash(render_away_page()),
        notebooks=site.notebooks,
        enter=ENTER,
        name=_NAME,
        server=_SERVER_NAME,
        extension=_EXTENSION,
        hashed=_HASHED,
        cookies=_COOKIES_TAKEN_OUT,
        hidden=_OF_A_WHOLE_SITE,
        gzip_static=gzip_static,
    )


def render_away_page() -> str:
    """Return the page for the time when the server does not answer."""
    return render("nginx/away.html")


def _listens(port: int, ipv6: bool, flags: Sequence[str], default: bool) -> list[str]:
    words = [*flags, *(["default_server"] if default else [])]
    return [" ".join([address, *words]) for address in ([str(port), f"[::]:{port}"] if ipv6 else [str(port)])]


def _style_hash(page: str) -> str:
    """Return the digest that lets the page's one style element pass (CSP level 3, "hash-source")."""
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    return base64.b64encode(hashlib.sha256((style[1] if style else "").encode()).digest()).decode()


def parse_version(text: str) -> tuple[int, ...]:
    """Return the version in `nginx -v`'s answer; (0,) if there is none."""
    match = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in match.groups()) if match else (0,)


def read_settings(system: System, config: Path) -> dict[str, str]:
    """Return path → text, comments left out, of Nginx's configuration and all it includes.

    `nginx -T` prints the same, but makes folders while it does: a dry run may not.
    """
    found: dict[str, str] = {}
    wanted = [config]
    while wanted:
        path = wanted.pop()
        try:
            text = system.read(path) if str(path) not in found else None
        except (OSError, HostError):  # a folder that a pattern matched
            continue
        if text is not None:
            found[str(path)] = re.sub(r"(?m)#.*$", "", text)
            for match in _INCLUDE.finditer(found[str(path)]):
                wanted += _glob(system, config.parent / match[1].strip("\"'"))
    return found


def _glob(system: System, pattern: Path) -> list[Path]:
    """Return the files that an include means: Nginx matches as glob(3) does, and relative to its main file's folder."""
    folders = [Path(pattern.anchor)]
    for part in pattern.parts[1:]:
        if re.search(r"[*?[]", part):
            folders = [
                folder / name
                for folder in folders
                for name in system.list_dir(folder)
                if fnmatch.fnmatchcase(name, part) and not name.startswith(".")
            ]
        else:
            folders = [folder / part for folder in folders]
    return folders


def default_servers(files: dict[str, str], ports: Sequence[int]) -> list[str]:
    """Return the files that hold a default server of one of these ports."""
    found = []
    for path, text in files.items():
        for match in _LISTEN.finditer(text):
            address, *flags = match[1].split()
            if {"default_server", "default"} & {*flags} and _port(address) in ports:
                found.append(path)
                break
    return found


def _port(address: str) -> int | None:
    """Return the port of a `listen` address: `80`, `*:80`, `[::]:80`, `192.0.2.1` (80); None for a Unix socket."""
    if address.startswith("unix:"):
        return None
    last = address.rpartition("]")[2].rpartition(":")[2]
    return int(last) if last.isdigit() else 80


class Nginx:
    """The distribution's Nginx. untouched: tells whether a settings file is as its package brought it."""

    def __init__(self, system: System, layout: NginxLayout, *, untouched: Callable[[str], bool]) -> None:
        self._system = system
        self._layout = layout
        self._untouched = untouched

    @property
    def file(self) -> Path:
        return Path(self._layout.sites) / f"{SITE}{self._layout.suffix}"

    @property
    def _link(self) -> Path | None:
        return Path(self._layout.enabled) / SITE if self._layout.enabled else None

    def ensure(self, site: Site) -> SiteReport:
        """Make our site be there as described. The caller reloads Nginx if it changed.

        Raises HostError with Nginx's words, and everything as it was, if Nginx refuses it.
        """
        notes: list[str] = []
        default = self._may_be_default(site, notes)
        self._system.make_dir(site.folder)
        changed = self._system.write(site.away_page, render_away_page())
        before = self._system.read(self.file)
        text = render_site(
            site,
            default=default,
            ipv6=self._system.exists("/proc/net/if_inet6"),
            http2_directive=self._version() >= _HTTP2_DIRECTIVE,
            gzip_static=self._has("http_gzip_static_module"),
        )
        changed |= self._system.write(self.file, text)
        if self._link is not None and self._system.read(self._link) != text:
            changed |= self._system.link(self._link, str(self.file))
        try:
            tested = self._system.run([self._layout.binary, "-t", "-q", "-c", self._layout.config])
        except HostError as error:
            if before is None:
                self.remove(site)
            else:
                self._system.write(self.file, before)
            ours = any(str(place) in error.message for place in (self.file, self._link))
            whose = "our site" if ours else "its settings"
            raise HostError(f"Nginx refuses {whose}, so nothing was changed: {error.message}", _HINT) from error
        notes += [line for line in tested.stderr.splitlines() if "[warn]" in line]
        return SiteReport(changed, tuple(notes))

    def remove(self, site: Site) -> bool:
        """Remove our site and put the distribution's default site back. The caller reloads Nginx if there was one."""
        there = self._system.remove(self._link) if self._link is not None else False
        there |= self._system.remove(self.file)
        target = self._system.read(site.disabled_default)
        if target and self._system.exists(target.strip()) and not self._system.exists(self._layout.default_site):
            self._system.link(self._layout.default_site, target.strip())
        self._system.remove(site.disabled_default)
        self._system.remove(site.away_page)
        self._system.remove(site.folder)
        return there

    def other_sites(self) -> list[str]:
        """Return the files of others in which Nginx is told to listen, the distribution's default site left out."""
        known = {str(self.file), str(self._link), self._layout.default_site}
        files = read_settings(self._system, Path(self._layout.config))
        return [path for path, text in files.items() if path not in known and _LISTEN.search(text)]

    def _may_be_default(self, site: Site, notes: list[str]) -> bool:
        """Tell whether our site may answer for unknown names; the distribution's own default site makes room."""
        files = read_settings(self._system, Path(self._layout.config))
        mine = {str(self.file), str(self._link)}
        others = [path for path in default_servers(files, [site.http_port, site.https_port]) if path not in mine]
        for path in list(others):
            if path == self._layout.default_site and self._give_way(site):
                others.remove(path)
                notes.append(f"The distribution's default site ({path}) was taken out of use; uninstall puts it back.")
        if others:
            names = " or ".join(site.names[:3])
            notes.append(
                f"{others[0]} is this Nginx's default server and stays it: the portal answers to {names} only. "
                "Set server.host_name to the name people type, then run diycloud install again."
            )
        return not others

    def _give_way(self, site: Site) -> bool:
        """Take the distribution's default site out of use if nobody changed it. On Debian it is a link."""
        if self._link is None:
            return False
        original = Path(self._layout.sites) / Path(self._layout.default_site).name
        if not self._untouched(str(original)):
            return False
        self._system.make_dir(site.folder)
        self._system.write(site.disabled_default, f"{original}\n")
        self._system.remove(self._layout.default_site)
        return True

    def _version(self) -> tuple[int, ...]:
        answer = self._system.query([self._layout.binary, "-v"])
        return parse_version(answer.stderr + answer.stdout)

    def _has(self, module: str) -> bool:
        """Tell whether this Nginx was built with a module."""
        answer = self._system.query([self._layout.binary, "-V"])
        return re.search(rf"--with-{module}(\s|$)", answer.stderr + answer.stdout) is not None


_HINT = "Mend what it names (`nginx -t` tells when it is right). What runs goes on with its old settings."
