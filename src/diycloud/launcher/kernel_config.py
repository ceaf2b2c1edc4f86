"""Read by IPython's kernels when they start (kernels.py), in whichever environment they run: nothing listens on TCP.

Sources: ipykernel 6 and 7, iostream.py and debugger.py.
"""

from __future__ import annotations

import os
from typing import Any

import ipykernel.debugger
import zmq
from ipykernel.iostream import IOPubThread
from zmq.eventloop.zmqstream import ZMQStream

ipykernel.debugger._is_debugpy_available = False


def _hear_subprocesses(thread: Any) -> None:
    """Have the kernel hear what its forks print: below the runtime folder, which is the user's alone."""
    thread._pipe_uuid = os.urandom(16)
    thread._pipe_address = f"ipc://{os.environ.get('JUPYTER_RUNTIME_DIR', '')}/out-{os.getpid()}"
    pipe = thread.socket.context.socket(zmq.PULL)
    pipe.linger = 0
    try:
        pipe.bind(thread._pipe_address)
    except zmq.ZMQError as error:
        print(f"What subprocesses print cannot be shown: {error}")  # noqa: T201 - the server's log
        thread._pipe_flag = False
        pipe.close()
        return
    thread._pipe_in = ZMQStream(pipe, thread.io_loop)
    thread._pipe_in.on_recv(thread._handle_pipe_msg)


def _tell_kernel(thread: Any) -> tuple[zmq.Context[Any], zmq.Socket[Any]]:
    """Open a fork's way to the kernel: a context of its own, as that of before the fork is the kernel's."""
    context = zmq.Context()
    pipe = context.socket(zmq.PUSH)
    pipe.linger = 3000  # ms
    pipe.connect(thread._pipe_address)
    return context, pipe


IOPubThread._setup_pipe_in = _hear_subprocesses
IOPubThread._setup_pipe_out = _tell_kernel
