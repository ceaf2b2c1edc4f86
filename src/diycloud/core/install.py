"""The installation: what `diycloud install` does once the program's own environment is there (install.sh).

Every step looks at the host and does what is missing (steps.py), so it repairs and upgrades too. `--dry-run` runs the
same steps on a DryRun and prints what they would do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from diycloud import config
from diycloud.config import Paths
from diycloud.core import install_steps as do
from diycloud.core import notebook_steps as notebooks
from diycloud.core.install_log import InstallLog
from diycloud.core.installation import Installation
from diycloud.core.lock import only_one
from diycloud.core.options import InstallOptions
from diycloud.core.steps import Printer, Step, StepFailed, run_steps
from diycloud.errors import DiyCloudError, InvalidInput
from diycloud.system import System
from diycloud.system.dry_run import DryRun
from diycloud.system.recording import Recording

STEPS: tuple[Step[Installation], ...] = (
    Step("Look at this host", do.look),
    Step("Distribution packages", do.packages),
    Step("Service accounts", do.accounts),
    Step("Folders and settings", do.folders),
    Step("Database", do.database),
    Step("Certificates", do.certificates),
    Step("Sign-in hook (PAM)", do.sign_in_hook),
    Step("SSH keys", do.ssh_keys),
    Step("Notebooks: environments", notebooks.environments),
    Step("Notebooks: sign-in", notebooks.sign_in),
    Step("Nginx site", do.nginx_site),
    Step("Services", do.services),
    Step("Start", do.start),
    Step("First administrator", do.first_administrator),
    Step("Check that it answers", do.check),
)


NOTEBOOK_STEPS: tuple[Step[Installation], ...] = (
    Step("Look at this host", do.look),
    Step("Service accounts", do.accounts),
    Step("Folders and settings", do.folders),
    Step("Certificates", do.certificates),
    Step("Notebooks: environments", notebooks.environments),
    Step("Notebooks: sign-in", notebooks.sign_in),
    Step("Nginx site", do.nginx_site),
    Step("Services", do.services),
    Step("Start", notebooks.start),
    Step("Check that it answers", do.check),
)
"""What `diycloud jupyter setup` does where the platform is installed."""


def install(system: System, options: InstallOptions, out: Printer, steps: Sequence[Step[Installation]] = STEPS) -> int:
    """Install, repair or upgrade the platform on this host. Returns the exit status: 0 done, 1 a step failed.

    out: prints a line. Raises InvalidInput for options and settings that cannot be and Conflict while another installation or
    uninstallation runs, before anything is changed.
    """
    paths = Paths(options.prefix)
    if os.geteuid() == 0:
        config.load(paths.config)  # a mistake in there is not the failure of the first step that meets it
    if options.dry_run:
        out("Dry run: this is what would be done. Nothing is changed.")
        context = Installation(DryRun(system, lambda line: out(f"         {line}")), options)
        return _run(context, steps, out, log=None)
    if os.geteuid() != 0:
        raise InvalidInput("Only root can install.", "Run it with sudo.")
    with only_one(system, paths), InstallLog(system, paths.logs) as log:
        log.write(f"diycloud install, Python {sys.version.split()[0]}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        context = Installation(Recording(system, before=log.write), options)

        def both(line: str) -> None:
            out(line)
            log.write(line)

        return _run(context, steps, both, log=log, summary=out)


def _run(
    context: Installation, steps: Sequence[Step[Installation]], out: Printer, *, log: InstallLog | None,
    summary: Printer | None = None,
) -> int:  # fmt: skip
    try:
        run_steps(steps, context, out, plan=context.dry)
    except StepFailed as failure:
        cause = failure.__cause__
        assert isinstance(cause, DiyCloudError)
        out(f"\n{str(failure).capitalize()}: {cause.message}")
        if cause.hint:
            out(cause.hint)
        out("When that is mended, run the same command again: what is done is kept, and it continues from there.")
        if log is not None:
            out(f"Everything that was done is in {log.path}.")
        return 1
    for note in context.notes:
        out(f"Note: {note}")
    if log is not None and steps is STEPS:
        # The one-time password goes to the terminal only, never to the log.
        context.print_summary(summary or out)
        context.finish()
    return 0
