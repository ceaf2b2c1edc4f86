"""The tests that need no host, with the Pythons of later Debians; each makes its own environment from requirements/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.bare.bareroot import BareRoot

SOURCE = Path(__file__).resolve().parents[2]
CHECKOUT = str(Path("/srv", "checkout"))
"""Put together, as tests/unit/test_rules.py looks for files that name it."""
PACKAGES = "python3 python3-venv ca-certificates git openssh-client zstd"

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


@pytest.mark.parametrize("bare_root", ["trixie", "sid"], indirect=True)
def test_the_program_and_its_tests_run_with_a_later_python(bare_root: BareRoot) -> None:
    bare_root.run(f"apt-get -q update && apt-get -q -y install --no-install-recommends {PACKAGES}")
    bare_root.push(SOURCE, CHECKOUT)
    bare_root.run(f"cd {CHECKOUT} && git init -q && git add --all")
    print(bare_root.run(f"cd {CHECKOUT} && ./test.sh lint", timeout=1800).stdout)
    for what in ("unit", "app"):
        said = bare_root.run(f"cd {CHECKOUT} && ./test.sh {what}", timeout=3600).stdout
        assert re.search(r"^\d{3,} passed", said, re.M), said[-2000:]
        print(bare_root.suite, said.splitlines()[-1])
