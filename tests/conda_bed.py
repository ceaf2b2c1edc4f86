"""conda for the tests: two programs that take its command line, and a channel of packages made on this machine.

`conda` is conda itself, in the last version that is a Python package (4.3.16): its solver, its linker, its settings and its
exit statuses, on a Python newer than it knows, for which a few names are put back. `rattler` is the solver and the installer
of today's conda ecosystem (py-rattler) behind the part of the command line that core/conda.py uses: it proves what today's
installers do with packages, not what mamba's or conda's own option parsers do.

The channel has Python (this machine's), ipykernel (the lab environment's), a kernel of another language that brings its own
kernel.json, one that needs no Python, and small packages. Both programs and the channel are made once, in /var/tmp, and kept.
"""

from __future__ import annotations

import bz2
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.notebooks import environment

WANTED = {
    "conda": (
        "conda==4.3.16", "pycosat==0.6.6", "ruamel.yaml==0.16.13", "requests==2.34.2", "cytoolz==1.2.0", "wheel==0.46.1",
        "setuptools==65.5.0",
    ),
    "rattler": ("py-rattler==0.28.0",),
}  # fmt: skip
SHIM = """
import collections, collections.abc, inspect, platform
for name in collections.abc.__all__:
    if not hasattr(collections, name):
        setattr(collections, name, getattr(collections.abc, name))
inspect.getargspec = inspect.getfullargspec
platform.linux_distribution = lambda *args, **more: ("Linux", "", "")
"""
CONDA = """#!{python} -Wignore
import sys
from conda.cli.main import main
sys.exit(main("conda", *sys.argv[1:]))
"""
RATTLER = """#!{python}
import argparse, asyncio, os, sys
from pathlib import Path
from rattler import Channel, Gateway, MatchSpec, PrefixRecord, VirtualPackage, install, solve
parser = argparse.ArgumentParser("rattler")
parser.add_argument("verb", choices=["create", "install"])
for flag in ("--yes", "--quiet", "--override-channels"):
    parser.add_argument(flag, action="store_true")
parser.add_argument("--prefix", type=Path, required=True)
parser.add_argument("--channel", action="append", default=[])
parser.add_argument("specs", nargs="*")
given = parser.parse_intermixed_args()
packages = Path(os.environ["CONDA_PKGS_DIRS"])
if not given.yes:
    sys.exit("it would ask")
if not given.channel or not given.override_channels:
    sys.exit("no channel, and settings are not read here")
if given.verb == "create" and given.prefix.exists():
    sys.exit("Non-conda folder exists at prefix")
async def main():
    there = [PrefixRecord.from_path(path) for path in sorted(given.prefix.glob("conda-meta/*.json"))]
    named = {{MatchSpec(spec).name.normalized for spec in given.specs}}
    kept = [str(record.name.normalized) for record in there if record.name.normalized not in named]
    records = await solve(
        [Channel(channel) for channel in given.channel], [*given.specs, *kept], gateway=Gateway(cache_dir=packages / "cache"),
        platforms=["linux-64", "noarch"], locked_packages=there, virtual_packages=VirtualPackage.detect(),
    )
    await install(records, given.prefix, cache_dir=packages, installed_packages=there, show_progress=False)
status = 0
try:
    asyncio.run(main())
except Exception as error:
    status = 1
    print(f"error    {{error}}", file=sys.stderr, flush=True)
os._exit(status)  # its threads and Python's end do not always agree
"""
KERNEL_CLOSURE = """
import importlib.metadata as m, json, re, sys
seen, todo = {}, ["ipykernel"]
while todo:
    name = re.sub("[-_.]+", "-", todo.pop()).lower()
    if name in seen or name == "debugpy":
        continue
    try:
        found = m.distribution(name)
    except m.PackageNotFoundError:
        continue
    seen[name] = [found.version, [[str(file), str(file.locate())] for file in found.files if not str(file).startswith("..")]]
    todo += [re.split("[ ;<>=!~(\\\\[]", line)[0] for line in found.requires or [] if "extra ==" not in line]
base = getattr(sys, "_base_executable", sys.executable)
print(json.dumps([base, list(sys.version_info[:2]), seen]))
"""
ECHO = '''#!/opt/anaconda1anaconda2anaconda3/bin/python
"""A kernel of a language that has one statement: what is written is said again, or one of the words below."""
import os
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel
class Echo(Kernel):
    implementation, implementation_version, banner = "echo", "1", "echo"
    language_info = {"name": "echo", "mimetype": "text/plain", "file_extension": ".echo"}
    def do_execute(self, code, silent, *args, **more):
        if code == "fill":
            self.held = [b"x" * (1 << 24) for _ in range(256)]
        words = {"pid": str(os.getpid()), "environment": " ".join(f"{k}={v}" for k, v in os.environ.items())}
        self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": words.get(code, f"echo {code}")})
        return {"status": "ok", "execution_count": self.execution_count, "payload": [], "user_expressions": {}}
IPKernelApp.launch_instance(kernel_class=Echo)
'''
CONDARC = "default_channels: []\nadd_pip_as_python_dependency: false\n"
"""This old one looks into its default channels whatever it is told, and there is no pip in the channel."""
LARGE = 3000
"""Files of the package `large`: enough to be interrupted."""
PLACEHOLDER = b"/opt/anaconda1anaconda2anaconda3"


def programs() -> dict[str, Path]:
    """Return both programs. Raises RuntimeError with pip's word if one cannot be made here."""
    return {kind: _program(kind) for kind in WANTED}


def _program(kind: str) -> Path:
    check = zlib.crc32("\n".join([*WANTED[kind], SHIM, CONDARC, CONDA, RATTLER]).encode())
    folder = Path(f"/var/tmp/diycloud-test-{kind}-{check:08x}")
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            python, script = str(folder / "bin/python"), folder / "bin" / kind
            if kind == "conda":
                site = next(folder.glob("lib/python3*/site-packages"))
                (site / "conda_shim.py").write_text(SHIM)
                (site / "conda_shim.pth").write_text("import conda_shim\n")
                (folder / "conda-meta").mkdir()  # an installation, as conda's installers make one
                (folder / ".condarc").write_text(CONDARC)
            wanted = WANTED[kind]
            for step in (wanted[1:], wanted[:1]):
                if step:
                    _pip(python, *step)
            script.write_text((CONDA if kind == "conda" else RATTLER).format(python=python))
            script.chmod(0o755)
            (folder / "made").touch()
    return folder / "bin" / kind


def _pip(python: str, *packages: str) -> None:
    argv = [python, "-m", "pip", "install", "-q", "--no-build-isolation", "--disable-pip-version-check", *packages]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip cannot install {packages[0]} here: {done.stderr[-300:]}")


class Channel:
    """A folder of packages, as a channel of conda's is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index: dict[str, dict[str, object]] = {}
        for subdir in ("linux-64", "noarch"):
            (folder / subdir).mkdir(parents=True)
            self._write_index(subdir)

    def add(
        self, name: str, version: str, files: Mapping[str, bytes], depends: Sequence[str] = (),
        modes: Mapping[str, int] = {},
    ) -> None:  # fmt: skip
        """Add a package for Linux on x86-64. Files below bin/ are programs; modes: of the others, 0644 if none is said."""
        index = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": list(depends)}
        index |= {"subdir": "linux-64", "arch": "x86_64", "platform": "linux"}
        paths = []
        for path, data in files.items():
            entry = {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(data).hexdigest()}
            if PLACEHOLDER in data:
                entry |= {"prefix_placeholder": PLACEHOLDER.decode(), "file_mode": "text"}
            paths.append({**entry, "size_in_bytes": len(data)})
        told = {
            "info/index.json": json.dumps(index),
            "info/paths.json": json.dumps({"paths_version": 1, "paths": paths}),
            "info/files": "".join(f"{path}\n" for path in files),
        }
        file = self.folder / "linux-64" / f"{name}-{version}-0.tar.bz2"
        with tarfile.open(file, "w:bz2", compresslevel=1) as packed:
            for path, data in {**{key: text.encode() for key, text in told.items()}, **files}.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.uid, entry.gid = len(data), 1234, 1234
                entry.mode = modes.get(path, 0o755 if path.startswith("bin/") else 0o644)
                packed.addfile(entry, io.BytesIO(data))
        raw = file.read_bytes()
        sums = {"md5": hashlib.md5(raw).hexdigest(), "sha256": hashlib.sha256(raw).hexdigest()}
        self._index[file.name] = {**index, "size": len(raw), **sums}
        self._write_index("linux-64")

    def _write_index(self, subdir: str) -> None:
        packages = self._index if subdir == "linux-64" else {}
        text = json.dumps({"info": {"subdir": subdir}, "packages": packages, "repodata_version": 1}).encode()
        (self.folder / subdir / "repodata.json").write_bytes(text)
        (self.folder / subdir / "repodata.json.bz2").write_bytes(bz2.compress(text))


def make_channel(folder: Path) -> Channel:
    """Make the channel that the module's text tells of. Raises RuntimeError where there is no lab environment."""
    lab = environment("lab")
    told = subprocess.run(
        [str(lab / "bin/python"), "-I", "-c", KERNEL_CLOSURE], capture_output=True, text=True, check=True
    ).stdout
    base, (major, minor), found = json.loads(told)
    channel = Channel(folder)
    site = f"lib/python{major}.{minor}/site-packages"
    real = Path(os.path.realpath(base))
    own = {"bin/python": real.read_bytes(), "pyvenv.cfg": f"home = {real.parent}\n".encode()}
    channel.add("python", f"{major}.{minor}", {**own, f"{site}/README.txt": b"packages\n"})
    files = {
        name: {f"{site}/{path}": Path(at).read_bytes() for path, at in entries if "__pycache__" not in path}
        for name, (_, entries) in found.items()
    }
    kernel = files.pop("ipykernel")
    libraries = {path: data for entries in files.values() for path, data in entries.items()}
    channel.add("kernel-libraries", "1.0", libraries, [f"python {major}.{minor}*"])
    channel.add("ipykernel", found["ipykernel"][0], kernel, ["kernel-libraries"])
    spec = {
        "argv": ["echo-kernel", "-f", "{connection_file}"], "display_name": "Echo", "language": "echo",
        "interrupt_mode": "message", "metadata": {"debugger": True, "kernel_provisioner": {"provisioner_name": "none"}},
    }  # fmt: skip
    brought = {
        "bin/echo-kernel": ECHO.encode(),
        "share/jupyter/kernels/echo/kernel.json": json.dumps(spec).encode(),
        "share/jupyter/kernels/echo/logo-svg.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "etc/conda/activate.d/echo.sh": b"export ECHO_HOME=$CONDA_PREFIX/share/echo\n",
        "etc/conda/env_vars.d/echo.json": b'{"ECHO_WORD": "said"}',
    }
    channel.add("echo-kernel", "1.0", brought, ["ipykernel"])
    spec = {
        "argv": ["plain-kernel", "{resource_dir}", "{connection_file}"],
        "display_name": "Plain",
        "language": "plain",
    }
    plain = {"bin/plain-kernel": b"#!/bin/sh\n", "share/jupyter/kernels/plain/kernel.json": json.dumps(spec).encode()}
    channel.add("plain-kernel", "1.0", plain)
    odd = {"share/odd/closed": b"closed\n", "share/odd/open": b"open\n", "share/odd/setuid": b"setuid\n"}
    channel.add(
        "odd", "1.0", odd, modes={"share/odd/closed": 0o600, "share/odd/open": 0o666, "share/odd/setuid": 0o4755}
    )
    for version in ("1.0", "2.0"):
        channel.add("small", version, {"share/small.txt": f"{version}\n".encode()})
    channel.add("large", "1.0", {f"share/large/{number}": b"large\n" for number in range(LARGE)}, ["small >=1"])
    channel.add("needs-what-is-not-there", "1.0", {"share/needs.txt": b"\n"}, ["nowhere >=3"])
    return channel
