"""conda's own program of this host: finding it, and having it make and change an environment.

micromamba, mamba and conda take the same command line for that: `create` and `install` with --prefix, --yes, --quiet,
--channel and --override-channels ("conda create", "conda install" in conda's command reference; "Mamba User Guide" and
"Micromamba User Guide" in mamba's). Root runs it, so it must be root's alone (host/trust.py), and what steers it is fixed:
no settings of whoever calls (HOME, CONDARC, CONDA_*, MAMBA_*), no question, no report to anybody. The administrators'
own settings hold: /etc/conda/.condarc and the like, and the installation's own .condarc ("Using the .condarc conda
configuration file", "Searching for .condarc"; mamba's "Configuration"). CONDARC is not set at all: micromamba would read
that file and none of these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from diycloud.config import Paths
from diycloud.errors import Conflict, HostError, InvalidInput, Unsupported
from diycloud.host.trust import find_weakness
from diycloud.system import PATH, System

PROGRAMS = ("micromamba", "mamba", "conda")
PLACES = (
    "/opt/conda/bin",
    "/opt/miniforge3/bin",
    "/opt/miniforge/bin",
    "/opt/mambaforge/bin",
    "/opt/miniconda3/bin",
    "/opt/miniconda/bin",
    "/opt/anaconda3/bin",
    "/opt/anaconda/bin",
    "/opt/micromamba/bin",
    "/usr/local/conda/bin",
    "/usr/local/miniforge3/bin",
    "/usr/local/miniconda3/bin",
)
"""Where installers for all users of a host put it, beside the folders of root's PATH."""
_RESERVED = ("base", "root")
_CONDA_S = 3600.0
_LAST_LINES = 12
_MAX_SPECS, _MAX_CHANNELS, _MAX_LENGTH = 500, 20, 250
_VERSION = r"[A-Za-z0-9_.*+!-]+"
_BOUND = rf"(?:==|!=|<=|>=|~=|=|<|>){_VERSION}(?:[,|](?:==|!=|<=|>=|~=|=|<|>)?{_VERSION})*"
_KEY = (
    r"""(?:version|build|build_number)=(?:'[^'"\[\]\x00-\x20\x7f]+'|"[^'"\[\]\x00-\x20\x7f]+"|[A-Za-z0-9_.*+<>=!-]+)"""
)
SPEC = re.compile(
    rf"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*::)?([A-Za-z0-9_][A-Za-z0-9_.-]*)(?:{_BOUND}(?:=[A-Za-z0-9_.*+]+)?)?(?:\[{_KEY}(?:,{_KEY})*\])?\Z"
)
"""A MatchSpec in one word ("Package search and install specifications"; conda's MatchSpec), and never a file or an address."""
_FILES = (".conda", ".bz2", ".zst", ".gz", ".yml", ".yaml", ".txt")
CHANNEL = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_.-]+)*"
    r"|https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:/[A-Za-z0-9_.~%+-]+)*/?"
    r"|(?:file://)?(?:/[A-Za-z0-9_.@+-]+)+/?)\Z"
)
"""A name, an address or a folder."""
_OF_NETWORK = re.compile(
    r"(SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(https?|no|all)_proxy)\Z", re.IGNORECASE
)
_FIXED = {
    "CONDA_REPORT_ERRORS": "false",  # it asks, or sends, what failed
    "CONDA_NOTIFY_OUTDATED_CONDA": "false",
    "CONDA_AUTO_UPDATE_CONDA": "false",
    "CONDA_ALWAYS_SOFTLINK": "false",  # users cannot enter the folder of packages
    "MAMBA_ALWAYS_SOFTLINK": "false",
    "MAMBA_NO_BANNER": "1",
    "PYTHONNOUSERSITE": "1",
}


class Refused(HostError):
    """conda said why it does not do what was asked for. Who was killed says nothing, and leaves things half done."""


def check_name(name: str) -> None:
    """Raise InvalidInput for what conda takes for its own environment."""
    if name in _RESERVED:
        raise InvalidInput(f"conda has an environment of its own called {name}.", "Choose another name.")


def check_specs(specs: Sequence[str]) -> None:
    """Raise InvalidInput for what is no specification of conda's, or would be an option of it, a file or an address."""
    for spec in specs:
        if len(spec) > _MAX_LENGTH or not SPEC.match(spec) or spec.lower().endswith(_FILES):
            raise InvalidInput(
                f"{spec[:80]!r} is no package of conda's.",
                "Write its name, with a version or without, as one word: numpy, numpy=2.1, r-base>=4.3 (quoted in a shell).",
            )
    if len(specs) > _MAX_SPECS:
        raise InvalidInput(f"{len(specs)} packages are too many at once.", f"Give {_MAX_SPECS} at most.")


def check_channels(channels: Sequence[str]) -> None:
    """Raise InvalidInput for what is no channel, or has a secret in it, which belongs in conda's own settings."""
    for channel in channels:
        if re.match(r"[a-z0-9+]+://([^/]*@|[^/]+/([^/]+/)*t/)", channel, re.IGNORECASE):
            raise InvalidInput(
                "A channel with a password or a token in it would be seen by everybody on this host.",
                "Put that into /etc/conda/.condarc, for root only, and name the channel here.",
            )
        if len(channel) > _MAX_LENGTH or not CHANNEL.match(channel) or "/../" in f"{channel}/":
            raise InvalidInput(
                f"{channel[:80]!r} is no channel.",
                "Give a name (conda-forge), an https:// address or a folder (/srv/channel).",
            )
    if len(channels) > _MAX_CHANNELS:
        raise InvalidInput(f"{len(channels)} channels are too many.", f"Give {_MAX_CHANNELS} at most.")


def name_of(spec: str) -> str:
    """Return the name of the package that a specification is about."""
    found = SPEC.match(spec)
    return found[1].lower() if found else spec


def merge(before: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    """Return the specifications of both; of one package, the later holds."""
    return tuple({name_of(spec): spec for spec in (*before, *more)}.values())


def find_program(system: System, setting: str) -> Path:
    """Return the program that makes environments: the one that the settings name, or the first that is there.

    Raises Unsupported if there is none, HostError if others than root could change what it runs.
    """
    folders = [*PATH.split(":"), *PLACES]
    candidates = [Path(setting)] if setting else [Path(folder, name) for folder in folders for name in PROGRAMS]
    program = next((path for path in candidates if system.exists(path)), None)
    if program is None:
        raise Unsupported(
            f"There is no {setting} here (notebooks.conda)." if setting else "There is no conda on this host.",
            "Install micromamba, mamba or conda for all users, as root, such as in /opt/conda; elsewhere, name the program: "
            "`diycloud config set notebooks.conda /path/to/conda`.",
        )
    if weak := find_weakness(program):
        raise HostError(
            f"{program} is not run as root, since others could change it: {weak}.",
            "Give all of it to root (`chown -R root:root`, `chmod -R go-w`), or name another in notebooks.conda.",
        )
    return program


def run(
    system: System, paths: Paths, program: Path, verb: str, prefix: Path, specs: Sequence[str], channels: Sequence[str]
) -> None:
    """Have conda `create` or `install` what is asked for at a prefix. Raises Refused with its last words,
    HostError if it was killed or did not end.

    channels: none for those of conda's own settings; else these only.
    """
    home = paths.kernels / "conda"
    for folder, mode in ((home, 0o755), (home / "home", 0o700), (home / "packages", 0o700), (home / "root", 0o700)):
        system.make_dir(folder, mode=mode)
    of_network = {key: value for key, value in os.environ.items() if _OF_NETWORK.match(key)}
    own = {"HOME": str(home / "home"), "CONDA_PKGS_DIRS": str(home / "packages"), "CONDA_ENVS_DIRS": str(prefix.parent)}
    if not system.exists(Path(os.path.realpath(program)).parent.parent / "conda-meta"):
        own["MAMBA_ROOT_PREFIX"] = str(home / "root")  # micromamba comes without an installation, and would make one
    options = ["--override-channels", *(word for channel in channels for word in ("--channel", channel))]
    argv = [str(program), verb, "--yes", "--quiet", "--prefix", str(prefix), *(options if channels else []), *specs]
    done = system.run(argv, ok=range(128), timeout=_CONDA_S, env={**of_network, **_FIXED, **own}, cwd="/")
    if not done.ok:
        last = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-_LAST_LINES:])
        raise Refused(f"{program} failed with status {done.status}: {last or 'it printed nothing'}")


def require_alone(system: System, prefix: Path) -> None:
    """Raise Conflict while a conda works on a prefix whose caller was killed: what it writes would mix with what comes."""
    for entry in system.list_dir("/proc"):
        try:
            words = (system.read(f"/proc/{entry}/cmdline") or "").split("\0") if entry.isdigit() else []
        except OSError:  # it has just ended
            continue
        if "--prefix" in words and str(prefix) in words and not {"create", "install"}.isdisjoint(words):
            raise Conflict(
                f"A conda that was started before still works on {prefix.name} (process {entry}).",
                f"Wait for its end, or end it: `kill {entry}`.",
            )


def share(system: System, prefix: Path) -> None:
    """Make an environment everybody's to read and root's alone to write, whatever its packages say of their files."""
    system.run(["chown", "-hR", "0:0", str(prefix)], timeout=600)
    system.run(["chmod", "-R", "u+rwX,go+rX,go-w,u-s,g-s", str(prefix)], timeout=600)


def list_packages(system: System, prefix: Path) -> dict[str, str]:
    """Return name and version of what is in an environment, from the names of conda's notes (`name-version-build.json`)."""
    notes = [entry for entry in system.list_dir(prefix / "conda-meta") if entry.endswith(".json")]
    entries = (note.removesuffix(".json").rsplit("-", 2) for note in notes)
    return {parts[0]: parts[1] for parts in entries if len(parts) == 3}
