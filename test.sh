#!/bin/sh
# The tests: ./test.sh [unit|app|lint|host|bare|browser|vm|all|exhaustive] [pytest options]
#
#   unit     fast, no root, for every save          lint     ruff, mypy, import rules
#   app      the whole application in one process   host     real effects on this machine (root)
#   bare     install in a bare Debian root (root)   browser  the portal in Chromium (root)
#   vm       install in virtual machines with systemd (root, slow)
#   (none)   all but vm and what is marked slow     all      everything but:
#   exhaustive  what takes ten minutes and more for itself, such as machines of older and newer systems (root)
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
    .venv/bin/mypy --python-version 3.14  # the newest that is tried: its library has other types
    PYTHONPATH=src .venv/bin/lint-imports
}

# Most of these tests wait (for prompts, delays after a wrong password, clocks, package managers) and each has accounts,
# ports and cgroups of its own, so they run in lanes side by side; an emulated machine keeps one core busy for itself.
# What measures shares of the CPU comes last, alone.
NOTEBOOKS="tests/host/hub tests/host/launcher tests/host/notebook_servers tests/host/test_hub*.py tests/host/test_notebook*.py
    tests/host/test_lab*.py tests/host/test_starter*.py tests/browser/test_notebook*.py"
WHOLE_SYSTEMS="tests/bare tests/host/test_install*.py tests/host/test_pam*.py"
MEASURED="tests/host/test_limits_bite.py"

# shellcheck disable=SC2086  # one path a word
everything() {
    logs=$(mktemp -d)
    lanes=
    status=0
    lane machines tests/vm "$@"
    renice -n -5 -p $! >/dev/null 2>&1 || true # the longest of them
    run_pytest -n auto tests/unit tests/app "$@" || status=1
    lane notebooks $NOTEBOOKS "$@"
    lane systems $WHOLE_SYSTEMS "$@"
    others=
    for path in $NOTEBOOKS $WHOLE_SYSTEMS $MEASURED; do
        others="$others --ignore=$path"
    done
    run_pytest -m "not exhaustive" $others tests/host tests/browser "$@" || status=1
    finish notebooks
    finish systems
    run_pytest $MEASURED "$@" || status=1
    finish machines
    rm -r "$logs"
    return $status
}

# Run tests in the background; `finish` waits for them, and shows what they said.
lane() {
    name=$1
    shift
    run_pytest -m "not exhaustive" "$@" >"$logs/$name" 2>&1 &
    lanes="$lanes $name=$!"
}

finish() {
    for each in $lanes; do
        [ "${each%%=*}" = "$1" ] || continue
        wait "${each#*=}" || status=1
        say "-- $1"
        cat "$logs/$1"
    done
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
exhaustive) run_pytest -m exhaustive tests/host tests/bare tests/vm "$@" ;;
all) lint && everything "$@" ;;
*) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
