"""Kernels on a host that many share: none listens where somebody else could connect.

Loopback is everybody's. Who connects to the debugger that a Python kernel opens there may run what they like as the kernel's
user, and is asked for nothing; at the port on which a kernel hears its subprocesses, anybody may fill the user's memory. So
IPython's kernels are started with kernel_config.py, which switches off the one and moves the other, and no page offers a
debugger. Whoever debugs a program of theirs by hand, with a debugger that listens, opens that door themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

CONFIG = Path(__file__).resolve().with_name("kernel_config.py")


def command(words: list[str]) -> list[str]:
    """Return the command of a kernel, told to read our file if it is IPython's, of whichever environment."""
    is_ours = any(word.startswith("ipykernel") for word in words)
    return [*words, f"--config={CONFIG}"] if is_ours else words


class KernelSpecs(KernelSpecManager):  # type: ignore[misc, unused-ignore]
    """Which kernels there are, none with a debugger: JupyterLab then shows no button for it."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return one."""
        found = super().get_kernel_spec(kernel_name)
        found.metadata = {**found.metadata, "debugger": False}
        return found

    def get_all_specs(self) -> dict[str, Any]:
        """Return all of them, by name."""
        found: dict[str, Any] = super().get_all_specs()
        for one in found.values():
            one["spec"]["metadata"] = {**one["spec"].get("metadata", {}), "debugger": False}
        return found
