"""Kernels that were killed for memory, told to whoever ran the cell.

Jupyter says of a kernel that died only that it died. The kernel counts what it kills for memory in the cgroup of the
victim, so a kernel that ended by SIGKILL while that count grew was killed for memory. The text goes into the output of the
cell that ran, ahead of Lab's own "the kernel appears to have died", into the kernel's `reason` (REST) and into the log.

Sources: the kernel's cgroup-v2.rst (memory.events) and cgroup-v1/memory.rst (memory.oom_control); jupyter_client 8,
restarter.py; jupyter_server 2, services/kernels.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
from pathlib import Path
from typing import Any

from jupyter_client.ioloop.restarter import AsyncIOLoopKernelRestarter
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager
from traitlets import Int, Unicode, default

from diycloud.launcher import kernels
from diycloud.launcher.resources import SliceUsage, read_key

KERNEL_SCORE = 300
"""oom_score_adj of kernels: where memory ends, a kernel goes before the server that can tell of it."""
_SOCKET_PATH = 107
"""Bytes of a Unix socket's path (unix(7): sun_path has 108, with the end)."""


class MemoryKillRestarter(AsyncIOLoopKernelRestarter):  # type: ignore[misc, unused-ignore]
    """Starts a kernel that died anew, as Jupyter's does, and finds out whether it was killed for memory."""

    kills_file = Unicode("", help="memory.events (v2) or memory.oom_control (v1) of the server's cgroup.").tag(
        config=True
    )
    kills_key = Unicode("oom_kill").tag(config=True)
    _kills = Int(0)

    def start(self) -> None:
        """Begin to watch."""
        self._kills = self._read_kills()
        super().start()

    async def poll(self) -> None:
        """Look after the kernel. The count that a death is held against is the one from before the look that found it well."""
        kills = self._read_kills()
        await super().poll()
        self._kills = kills

    def _fire_callbacks(self, event: Any) -> None:
        """Find out why it died before the open pages are told that it did."""
        kernel = self.kernel_manager
        process = getattr(kernel.provisioner, "process", None)
        killed = process is not None and process.returncode == -signal.SIGKILL
        kernel.reason = self._told() if killed and self._read_kills() > self._kills else ""
        if kernel.reason:
            self.log.warning("Kernel %s: %s", kernel.kernel_id, kernel.reason)
        super()._fire_callbacks(event)

    def _read_kills(self) -> int:
        return read_key(Path(self.kills_file), self.kills_key) if self.kills_file else 0

    def _told(self) -> str:
        limit = SliceUsage(parent=self).read().memory_limit
        size = f" ({limit / (1 << 30):.3g} GiB)" if limit else ""
        return (
            f"This kernel was killed because all of your memory{size} was in use. Its variables are lost; your files are not. "
            "Load less at a time, or shut down kernels that you do not need (Kernel menu), then run the notebook again."
        )


class NotebookKernelManager(ServerKernelManager):  # type: ignore[misc, unused-ignore]
    """One kernel. It talks over Unix sockets in a folder of its user's, so nobody else on the host reaches it."""

    @default("restarter_class")
    def _restarter_class(self) -> type[MemoryKillRestarter]:
        return MemoryKillRestarter

    def _ip_default(self) -> str:
        """Return what the paths of an ipc kernel's five sockets begin with: short, for they may have 107 bytes only."""
        if self.transport != "ipc":
            return str(super()._ip_default())
        file = Path(self.connection_file)
        name = file.stem.removeprefix("kernel-")[:13] or "kernel"
        beside = str(file.with_name(name))
        if file.is_absolute() and len(f"{beside}-9".encode()) <= _SOCKET_PATH:
            return beside
        return f"{tempfile.mkdtemp(prefix='kernel-')}/{name}"  # long names of people and servers; 0700 as well

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """Return what is executed."""
        return kernels.command(super().format_kernel_cmd(extra_arguments))

    def start_restarter(self) -> None:
        """Begin to watch a kernel that was started: if it comes to that, it is killed for memory, not the server."""
        super().start_restarter()
        if pid := getattr(self.provisioner, "pid", None):
            with contextlib.suppress(OSError):  # it ended at once, or the host forbids it
                Path(f"/proc/{pid}/oom_score_adj").write_text(str(KERNEL_SCORE), encoding="ascii")


class NotebookConnection(ZMQChannelsWebsocketConnection):  # type: ignore[misc, unused-ignore]
    """A page's connection to a kernel: tells why the kernel died in the cell that ran."""

    _running: Any = None

    def handle_outgoing_message(self, stream: Any, outgoing_msg: list[Any]) -> None:
        """Pass a message on to the page, remembering which cell runs."""
        channel = stream if isinstance(stream, str) else getattr(stream, "channel", None)
        if channel == "iopub":
            _, parts = self.session.feed_identities(outgoing_msg)  # signature, header, parent header, …
            if b'"execute_input"' in bytes(parts[1]):
                self._running = self.session.unpack(parts[2])
        super().handle_outgoing_message(stream, outgoing_msg)

    def on_kernel_restarted(self) -> None:
        """Tell the page that the kernel starts anew."""
        self._tell_reason()
        super().on_kernel_restarted()

    def on_restart_failed(self) -> None:
        """Tell the page that the kernel stays dead."""
        self._tell_reason()
        super().on_restart_failed()

    def _tell_reason(self) -> None:
        reason = self.kernel_manager.reason
        if not reason:
            return
        iopub = self.channels.get("iopub")
        if iopub and not iopub.closed():
            iopub.flush()  # what the cell printed before comes first
        self.write_stderr(reason, self._running or {})
