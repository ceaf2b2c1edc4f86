"""The server process: from a fork of the launcher to a user's JupyterLab on a socket that was bound for it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import site
import socket
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from diycloud.launcher import linux
from diycloud.launcher.privileges import become_user, bound_process, close_all_but, isolate_tmp, own_runtime
from diycloud.launcher.request import Request
from diycloud.launcher.starters import copy_starters

_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
_IGNORED = {signal.SIGPIPE, signal.SIGXFSZ}
"""As Python begins: an error tells of them."""


def run_server(request: Request, listener: socket.socket, ready: int, output: int, visible: list[Path]) -> NoReturn:
    """Become the user's notebook server. Never returns; what goes wrong is printed to `output`, where the shim reads it.

    listener: listens already; ready: gets one byte once requests are answered; visible: privileges.isolate_tmp.
    """
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        close_all_but((0, 1, 2, listener.fileno(), ready))
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in _IGNORED else signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.setsid()
        linux.set_name("notebook")
        bound_process()
        isolate_tmp(request.tmp, visible)
        own_runtime(request.runtime, request.uid, request.gid)
        linux.own_session_keyring()  # as root: the user's share of keys may be used up
        become_user(request)
        os.umask(0o022)
        _enter(request.home)
        _set_environment(request)
        gc.enable()
        copy_starters(request.templates, request.home)
        code = _serve(request, listener, ready)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        logging.getLogger("diycloud").exception("The notebook server ended.")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _enter(home: Path) -> None:
    """Go to the user's home. Raises SystemExit, having said what to do, if the user shut it."""
    try:
        os.chdir(home)
    except OSError as error:
        sys.stderr.write(
            f"Your home folder {home} cannot be entered ({error.strerror}).\n"
            "In a terminal over SSH, `chmod u+rwx ~` opens it again; if that does not help, ask an administrator.\n"
        )
        raise SystemExit(1) from error


def _serve(request: Request, listener: socket.socket, ready: int) -> int:
    """Run JupyterLab until it is told to end."""
    from diycloud.launcher.single_user import SingleUser, configuration

    def answers() -> None:
        os.write(ready, b"1")
        os.close(ready)

    SingleUser.start_on(listener, answers, configuration(request)).start()
    return 0


def _set_environment(request: Request) -> None:
    """Set the environment of this process and all that it starts: nothing of the launcher's stays."""
    from diycloud.launcher import lab_settings

    home, name = request.home, request.environment.get("USER", request.name)
    path = request.environment.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    environment = {
        "LANG": "C.UTF-8",
        **request.environment,
        "HOME": str(home),
        "USER": name,
        "LOGNAME": name,
        # What programs run commands with: IPython's `!`, make, editors.
        "SHELL": request.shell if lab_settings.has_shell(request.shell) else "/bin/sh",
        "PATH": f"{sys.prefix}/bin:{home}/.local/bin:{path}",
        "JUPYTER_RUNTIME_DIR": str(request.runtime),
    }
    session = Path(f"/run/user/{request.uid}")
    if session.is_dir():
        environment.setdefault("XDG_RUNTIME_DIR", str(session))
    os.environ.clear()
    os.environ.update(environment)
    os.environ.update(lab_settings.environment(request, environment))
    tempfile.tempdir = None  # the rehearsal made Python remember the launcher's
    _add_own_packages(home)


def _add_own_packages(home: Path) -> None:
    """Find what `pip install --user` put into the home. The server's own packages go first: it starts whatever lies there."""
    site.USER_BASE = f"{home}/.local"
    site.USER_SITE = f"{site.USER_BASE}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    site.ENABLE_USER_SITE = True
    site.addsitedir(site.USER_SITE)
