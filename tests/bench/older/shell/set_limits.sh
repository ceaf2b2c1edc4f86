#!/usr/bin/env bash
# Store a user's limits and put them in force: cgroup v1 files, processes that already run, disk quota.
#
#   set_limits.sh NAME CORES MEMORY-MB DISK-MB
#
# Environment: USERS_DB (SQLite file, needed), CGROUP_PARENT (default: user), HOME_BASE (default: /home).
set -euo pipefail

if (($# != 4)); then
    echo "usage: set_limits.sh NAME CORES MEMORY-MB DISK-MB" >&2
    exit 2
fi
name=$1 cores=$2 memory_mb=$3 disk_mb=$4
parent=${CGROUP_PARENT:-user}
home_base=${HOME_BASE:-/home}
period_us=100000

fail() {
    echo "set_limits.sh: $1" >&2
    exit 1
}
database() { sqlite3 -bail -cmd ".timeout 5000" -cmd "PRAGMA foreign_keys = ON;" "$USERS_DB" "$1"; }

[[ $name =~ ^[a-z_][a-z0-9_-]{0,31}$ ]] || fail "'$name' is not a user name"
[[ $cores =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "'$cores' is not a number of cores"
[[ $memory_mb =~ ^[1-9][0-9]{0,8}$ ]] || fail "'$memory_mb' is not a number of MB"
[[ $disk_mb =~ ^[1-9][0-9]{0,8}$ ]] || fail "'$disk_mb' is not a number of MB"
uid=$(id -u -- "$name") || fail "no account $name"
quota_us=$(awk -v cores="$cores" -v period="$period_us" 'BEGIN { printf "%d", cores * period + 0.5 }')
((quota_us >= 1000)) || fail "$cores cores is too little"

user_id=$(database "SELECT id FROM users WHERE username = '$name';")
[[ -n $user_id ]] || fail "no user $name in the database"
values="cpu_limit = $cores, mem_limit = '${memory_mb}M', disk_quota = '${disk_mb}M'"
rows=$(database "UPDATE resource_allocations SET $values WHERE user_id = $user_id; SELECT changes();")
if ((rows == 0)); then
    database "INSERT INTO resource_allocations (user_id, cpu_limit, mem_limit, disk_quota)
              VALUES ($user_id, $cores, '${memory_mb}M', '${disk_mb}M');"
fi

cpu=/sys/fs/cgroup/cpu/$parent/$name
memory=/sys/fs/cgroup/memory/$parent/$name
pids=/sys/fs/cgroup/pids/$parent/$name
mkdir -p "$cpu" "$memory" "$pids"
echo "$period_us" >"$cpu/cpu.cfs_period_us"
echo "$quota_us" >"$cpu/cpu.cfs_quota_us"
echo $((memory_mb * 1024 * 1024)) >"$memory/memory.limit_in_bytes"
echo 512 >"$pids/pids.max"
for pid in $(pgrep -U "$uid"); do
    for group in "$cpu" "$memory" "$pids"; do
        echo "$pid" >"$group/cgroup.procs" 2>/dev/null || true # it may have ended meanwhile
    done
done

if command -v setquota >/dev/null; then
    mount_point=$(findmnt -n -o TARGET --target "$home_base")
    setquota -u "$name" $((disk_mb * 1024)) $((disk_mb * 2048)) 0 0 "$mount_point" ||
        echo "set_limits.sh: no disk quota on $mount_point" >&2
fi
