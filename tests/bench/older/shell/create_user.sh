#!/usr/bin/env bash
# Create a user: POSIX account with home, password, database rows, cgroup v1 limits and disk quota.
#
#   create_user.sh NAME EMAIL CORES MEMORY-MB DISK-MB  < password
#
# Environment: USERS_DB (SQLite file, needed), CGROUP_PARENT (default: user), HOME_BASE (default: /home).
set -euo pipefail

if (($# != 5)); then
    echo "usage: create_user.sh NAME EMAIL CORES MEMORY-MB DISK-MB < password" >&2
    exit 2
fi
name=$1 email=$2 cores=$3 memory_mb=$4 disk_mb=$5
here=$(dirname -- "$(readlink -f -- "$0")")
home_base=${HOME_BASE:-/home}

fail() {
    echo "create_user.sh: $1" >&2
    exit 1
}
quoted() { printf "'%s'" "${1//\'/\'\'}"; }

[[ $name =~ ^[a-z_][a-z0-9_-]{0,31}$ ]] || fail "'$name' is not a user name"
IFS= read -r password || [[ -n $password ]] || fail "no password on standard input"
! id -u -- "$name" >/dev/null 2>&1 || fail "account $name exists"

undo() {
    sqlite3 -cmd ".timeout 5000" "$USERS_DB" "DELETE FROM users WHERE username = $(quoted "$name");" || true
    userdel -r -- "$name" 2>/dev/null || true
}

useradd -m -b "$home_base" -s /bin/bash -K UID_MIN="${UID_MIN:-50000}" -- "$name"
trap undo ERR
printf '%s:%s\n' "$name" "$password" | chpasswd
chmod 0750 "$home_base/$name"

hash=$(printf '%s' "$password" | sha256sum | cut -d' ' -f1)
sqlite3 -bail -cmd ".timeout 5000" "$USERS_DB" \
    "INSERT INTO users (username, password_hash, email) VALUES ($(quoted "$name"), '$hash', $(quoted "$email"));"

"$here/set_limits.sh" "$name" "$cores" "$memory_mb" "$disk_mb"
trap - ERR
echo "created $name"
