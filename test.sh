#!/bin/sh
# The tests: ./test.sh [unit|app|lint|host|bare|browser|vm|all|exhaustive] [pytest options]
#
#   unit     fast, no root, for every save          lint     ruff, mypy, import rules
#   app      the whole application in one process   host     real effects on this machine (root)
#   bare     install in a bare Debian root (root)   browser  the portal in Chromium (root)
#   vm       install in virtual machines with systemd (root, slow)
#   (none)   all but vm and what is marked slow     all      everything but:
#   exhaustive  what takes ten minutes and more for itself, such as virtual machines of an older system (root)
#
# It makes its own environment in .venv (from requirements/test.txt, checked by hash). What this machine cannot run is
# skipped with the reason; the list of that is printed last.
set -eu
cd "$(dirname "$0")"

say() { printf '%s\n' "$*" >&2; }

# Other accounts must be able to run this Python (the server's tests do): the system's, not one in somebody's home.
find_python() {
    for python in ${DIYCLOUD_PYTHON:-} /usr/bin/python3.14 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11 /usr/bin/python3; do
        if [ -x "$python" ] && "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$python"
            return
        fi
    done
    say "test.sh: there is no Python 3.11 or newer with venv in /usr/bin."
    say "  On Debian: apt-get install python3 python3-venv"
    exit 1
}

make_environment() {
    wanted=$(cat requirements/test.txt pyproject.toml | cksum)
    [ "$(cat .venv/made-for 2>/dev/null)" = "$wanted" ] && return
    say "Making the environment in .venv (a minute, once)"
    [ -x .venv/bin/python ] && .venv/bin/python -c 'import pip' 2>/dev/null || "$(find_python)" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/test.txt
    # The program itself, from src/, without building anything.
    site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' "$PWD/src" > "$site/diycloud.pth"
    printf '%s\n' "$wanted" > .venv/made-for
}

# Other accounts must reach what the tests make, and a socket's name is 107 bytes at most: no TMPDIR of somebody's own.
run_pytest() { TMPDIR=/tmp .venv/bin/python -m pytest -q "$@"; }

lint() {
    .venv/bin/ruff check src tests
    .venv/bin/ruff format --check src tests
    .venv/bin/mypy
    PYTHONPATH=src .venv/bin/lint-imports
}

# An emulated machine keeps one core busy and touches nothing of this one: what runs in it runs beside the rest.
everything() {
    status=0
    run_pytest -n auto tests/unit tests/app "$@" || status=1
    log=$(mktemp)
    run_pytest -m "not exhaustive" tests/vm "$@" >"$log" 2>&1 &
    run_pytest -m "not exhaustive" tests/host tests/browser tests/bare "$@" || status=1
    wait $! || status=1
    cat "$log"
    rm "$log"
    return $status
}

what=${1:-most}
[ $# -gt 0 ] && shift
make_environment
case $what in
unit) run_pytest -n auto -m "not slow" tests/unit "$@" ;;
app) run_pytest -n auto tests/app "$@" ;;
lint) lint ;;
host | bare | browser | vm | bench) run_pytest -m "not exhaustive" "tests/$what" "$@" ;;
most)
    lint
    run_pytest -n auto -m "not slow" tests/unit tests/app "$@"
    run_pytest -m "not slow" tests/host tests/browser tests/bare "$@"
    ;;
exhaustive) run_pytest -m exhaustive tests/host tests/vm "$@" ;;
all) lint && everything "$@" ;;
*) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
