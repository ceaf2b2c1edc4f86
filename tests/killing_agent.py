"""The agent that kills itself ahead of an effect (tests/killing_process.py)."""

from __future__ import annotations

import sys

from diycloud.agent import main as agent
from diycloud.system import Local
from diycloud.system.recording import Recording
from tests.killing_process import Killer

if __name__ == "__main__":
    killer = Killer("agent", sys.argv)
    agent.Local = lambda: Recording(Local(), before=killer)  # type: ignore[assignment,misc]
    sys.exit(agent.main())
