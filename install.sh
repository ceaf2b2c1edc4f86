#!/bin/sh
# Installs DIY Cloud, repairs it, or upgrades it to this source tree. Run it as root, as often as you like.
#
#   ./install.sh [--dry-run] [OPTIONS OF `diycloud install`]
#
# It needs nothing but a base system: it finds or installs Python, makes /opt/diycloud/venv from the pinned packages in
# requirements/runtime.txt, copies the program to /opt/diycloud/lib, and hands over to `diycloud install`.
# pip's settings of this machine (PIP_*, pip.conf, SSL_CERT_FILE, REQUESTS_CA_BUNDLE) are used as they are.
set -eu
umask 022

PROGRAM=/opt/diycloud
COMMAND=/usr/local/bin/diycloud
LOG=/var/log/diycloud/install.log
LOCK=/run/diycloud-install.lock
LOCK_SECONDS=600
SOURCE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
REQUIREMENTS=$SOURCE/requirements/runtime.txt
DRY=no

say() { printf '%s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

usage() {
    say 'Usage: ./install.sh [--dry-run] [options]'
    say
    say '  --dry-run                   print the plan, change nothing'
    say '  --domain NAME               the name people type (default: this host'"'"'s own names and addresses)'
    say '  --https-port N, --http-port N'
    say '  --admin-name NAME           first administrator of the portal (default: admin)'
    say '  --admin-password-file FILE  its first line is the password (default: a one-time password is printed)'
    say '  --without-packages          install no distribution packages'
    say '  --without-notebooks         set no notebooks up (later: diycloud jupyter setup)'
    say
    say 'Unattended: each option can stand in the environment, as DIYCLOUD_ADMIN_NAME and so on.'
}

# Prints what a step is, does it with its output in the log, and its time. A failure shows the log's last lines.
step() {
    title=$1; shift
    begun=$(date +%s)
    printf '[setup] %-34s' "$title"
    set +e  # a subshell that is a condition would ignore its own `set -e`
    ( set -e; "$@" ) >> "$LOG" 2>&1 9>&-
    status=$?
    set -e
    if [ "$status" = 0 ]; then
        printf '  %3d s\n' $(($(date +%s) - begun))
        return
    fi
    printf '  FAILED\n'
    tail -n 15 "$LOG" >&2
    fail "\"$title\" failed; its last lines are above, all of it in $LOG.
Run the same command again when the cause is removed: what is done is kept, and it continues from there."
}

# One at a time, `diycloud install` and `uninstall` among them (core/lock.py): locks the file on descriptor 9, which
# `diycloud install` takes over below. Who had it last takes the file along, so it may be gone when we have it.
take_lock() {
    for _ in 1 2 3 4 5; do
        umask 077
        exec 9>> "$LOCK"
        umask 022
        lock_9 || break
        if [ /proc/self/fd/9 -ef "$LOCK" ]; then return; fi
    done
    fail 'another installation is running, or an uninstallation.'
}

lock_9() {
    if command -v flock > /dev/null; then
        flock -n 9
    elif find_python; then
        "$PYTHON" -I -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2> /dev/null
    fi  # with neither there is no installation to be had, or `diycloud install` looks
}

# --- Python ---------------------------------------------------------------------------------------------------------

# -I everywhere: root must not import what lies in the current folder or in somebody's PYTHONPATH.
suits() { "$1" -I -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && others_run "$1"; }

# The server is another account: a Python in somebody's home will not do.
others_run() {
    [ "$(id -u)" = 0 ] || return 0
    setpriv --reuid 65534 --regid 65534 --clear-groups "$1" -I -c '' 2> /dev/null
}

find_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        path=$(command -v "$name") || continue
        if suits "$path"; then PYTHON=$path; return 0; fi
    done
    return 1
}

apt() {
    waited=0
    until DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -q -y -o "DPkg::Lock::Timeout=$LOCK_SECONDS" "$@" > "$LOG.apt" 2>&1; do
        cat "$LOG.apt"
        # apt waits for dpkg's lock by itself, but not for those of its lists and archives.
        if ! grep -Eq 'lock /var/(lib/apt/lists|cache/apt/archives)/lock' "$LOG.apt" || [ "$waited" -ge "$LOCK_SECONDS" ]; then
            rm -f "$LOG.apt"
            return 1
        fi
        sleep 2
        waited=$((waited + 2))
    done
    cat "$LOG.apt"
    rm -f "$LOG.apt"
}

apt_install() {
    apt install --no-install-recommends -- "$@" && return
    # An earlier run was killed in the middle, or the index is old.
    dpkg --force-confdef --force-confold --configure -a
    apt install --fix-broken
    apt update
    apt install --no-install-recommends -- "$@"
}

install_python() {
    apt-cache show python3-venv > /dev/null 2>&1 || apt update
    apt_install python3 python3-venv
    find_python && return
    for version in 3.14 3.13 3.12 3.11; do
        if apt-cache show "python$version-venv" > /dev/null 2>&1; then
            apt_install "python$version" "python$version-venv"
            find_python && return
        fi
    done
    echo 'The packages of this distribution have no Python 3.11 or later.'
    return 1
}

needs_authorities() { [ ! -e /etc/ssl/certs/ca-certificates.crt ] && command -v apt-get > /dev/null; }

# --- The program ------------------------------------------------------------------------------------------------------

# What says that something is whole must not outlive it in a power cut: neither pip nor cp waits for the disk.
settle() { sync -f "$PROGRAM" 2> /dev/null || sync; }

make_environment() {
    venv=$PROGRAM/venv
    wanted="$(sha256sum < "$REQUIREMENTS") $("$PYTHON" -I -c 'import sys; print(sys.version)')"
    if [ -e "$venv/.made-from" ] && [ "$(cat "$venv/.made-from")" = "$wanted" ] && "$venv/bin/python" -I -c ''; then
        echo 'The environment is up to date.'
        return
    fi
    rm -f "$venv/.made-from"
    if ! "$venv/bin/python" -I -m pip --version 2> /dev/null || ! suits "$venv/bin/python"; then
        rm -rf "$venv"
        "$PYTHON" -I -m venv "$venv"
    fi
    # Wheels only: what a source package is built with is in no list of hashes, and would run as root.
    "$venv/bin/python" -I -m pip install --disable-pip-version-check --no-input --no-cache-dir --require-hashes \
        --only-binary :all: --requirement "$REQUIREMENTS"
    settle
    printf '%s\n' "$wanted" > "$venv/.made-from"
}

copy_program() {
    rm -rf "$PROGRAM/lib.new" "$PROGRAM/lib.old"
    mkdir -p "$PROGRAM/lib.new" "$PROGRAM/bin"
    cp -R "$SOURCE/src/diycloud" "$PROGRAM/lib.new/diycloud"
    # Of the environments that `diycloud install` makes for notebooks.
    rm -rf "$PROGRAM/requirements.new"
    mkdir "$PROGRAM/requirements.new"
    cp "$SOURCE"/requirements/*.txt "$PROGRAM/requirements.new"
    chmod -R u=rwX,go=rX "$PROGRAM/requirements.new"
    find "$PROGRAM/lib.new" -name __pycache__ -type d -prune -exec rm -rf {} +
    chmod -R u=rwX,go=rX "$PROGRAM/lib.new"
    "$PROGRAM/venv/bin/python" -I -m compileall -q "$PROGRAM/lib.new" -s "$PROGRAM/lib.new" -p "$PROGRAM/lib"
    settle
    if [ -e "$PROGRAM/lib" ]; then mv "$PROGRAM/lib" "$PROGRAM/lib.old"; fi
    mv "$PROGRAM/lib.new" "$PROGRAM/lib"
    rm -rf "$PROGRAM/requirements"
    mv "$PROGRAM/requirements.new" "$PROGRAM/requirements"
    rm -rf "$PROGRAM/lib.old"
    packages=$("$PROGRAM/venv/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' "$PROGRAM/lib" > "$packages/diycloud.pth"
    printf '%s\n' "#!$PROGRAM/venv/bin/python -I" 'import sys' 'from diycloud.cli.main import main' 'sys.exit(main())' \
        > "$PROGRAM/bin/diycloud"
    chmod 755 "$PROGRAM/bin/diycloud"
}

link_command() {
    mkdir -p "${COMMAND%/*}"
    ln -sfn "$PROGRAM/bin/diycloud" "$COMMAND"
}

# --- Dry run ------------------------------------------------------------------------------------------------------------

# The program's own plan needs the program. It runs from a folder that is gone afterwards; nothing of the host changes.
dry_run() {
    real=$PROGRAM
    say 'Dry run: this is what would be done. Nothing is changed.'
    needs_authorities && say '         install    ca-certificates (apt)'
    if find_python; then
        say "         use        $PYTHON"
    else
        say '         install    python3 python3-venv (apt)'
    fi
    say "         run        $(command -v "${PYTHON:-python3}" || echo python3) -I -m venv $real/venv"
    say "         run        $real/venv/bin/python -I -m pip install --require-hashes --only-binary :all: -r $REQUIREMENTS"
    grep -o '^[A-Za-z0-9._-]*==[^ \\;]*' "$REQUIREMENTS" | sed 's/^/                    /'
    say "         copy       $SOURCE/src/diycloud to $real/lib/diycloud"
    say "         link       $COMMAND -> $real/bin/diycloud"
    if [ -z "${PYTHON:-}" ]; then
        say
        say 'What follows is planned by the program itself, which needs Python 3.11 with venv; this machine has none yet.'
        say 'Its steps: host, packages (nginx), service accounts, folders, database, certificates, sign-in hook (PAM),'
        say 'SSH keys, notebooks (JupyterHub and JupyterLab), Nginx site, services, start, first administrator, check.'
        say 'To see them in full: install python3 and python3-venv, then repeat the dry run.'
        return 0
    fi
    PROGRAM=$(mktemp -d "${TMPDIR:-/tmp}/diycloud-plan.XXXXXX")
    trap 'rm -rf "$PROGRAM"' EXIT
    trap 'exit 130' INT TERM
    say '         (making the plan for what follows takes a moment)'
    set +e
    ( set -e; make_environment; copy_program ) > "$PROGRAM/log" 2>&1
    status=$?
    set -e
    if [ "$status" != 0 ]; then
        tail -n 15 "$PROGRAM/log" >&2
        fail 'the plan of the remaining steps could not be made.'
    fi
    status=0
    "$PROGRAM/bin/diycloud" install "$@" > "$PROGRAM/plan" || status=$?
    sed -e 1d -e "s|$PROGRAM|$real|g" "$PROGRAM/plan"
    return "$status"
}

# ------------------------------------------------------------------------------------------------------------------------

for argument; do
    case $argument in
    --dry-run) DRY=yes ;;
    -h | --help) usage; exit 0 ;;
    esac
done
[ -e "$REQUIREMENTS" ] && [ -d "$SOURCE/src/diycloud" ] || fail "run it from the whole source tree ($SOURCE is not)."

if [ "$DRY" = yes ]; then
    dry_run "$@"
    exit
fi

[ "$(id -u)" = 0 ] || fail 'only root can install. Run it with sudo.'
if [ -e "$COMMAND" ] && [ "$(readlink "$COMMAND")" != "$PROGRAM/bin/diycloud" ]; then
    fail "$COMMAND is there already and is not ours. Move it out of the way."
fi
take_lock
mkdir -p "${LOG%/*}"
chmod 750 "${LOG%/*}"
( umask 077; : >> "$LOG" )
say "DIY Cloud: setting up. Everything that is done is in $LOG."

if needs_authorities; then step 'Certificate authorities' apt_install ca-certificates; fi
if ! find_python; then
    command -v apt-get > /dev/null || fail 'there is no Python 3.11 with venv here, and this version installs it with apt only.
Install Python 3.11 or later with its venv module, then run this again.'
    step 'Python' install_python
    find_python || fail 'Python was installed but cannot be found.'
fi
mkdir -p "$PROGRAM"
step "Environment ($("$PYTHON" -V))" make_environment
step 'Program' copy_program
step 'Command diycloud' link_command
exec "$COMMAND" install "$@"
