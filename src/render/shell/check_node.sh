#!/bin/sh
# check-node
#
# Compares this machine with its plan: every MPS server answers and holds its limits, and every
# process on a whole GPU that the plan shares by MPS is a client of one of its servers. Prints what
# differs and exits 1, or prints nothing.
set -eu
home=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=confine.sh
. "$home/bin/confine.sh"

problems=0
report() {
  printf '%s\n' "$*"
  problems=$((problems + 1))
}

# Prints the process ids of a server and of its clients.
members() { # SERVER
  ask "$1" get_server_list | grep -E '^[0-9]+$' || true
  ask "$1" ps | awk '$1 ~ /^[0-9]+$/ { print $1 }'
}

servers_of() { # PARTITION
  settings servers.conf | awk -v on="$1" '$2 == on { print $1 }'
}

for server in $(settings servers.conf | awk '{ print $1 }'); do
  read_server "$server"
  if ! answers "$server"; then
    report "$server: no MPS control daemon answers"
  elif ! problem=$(limits_hold "$server"); then
    report "$server: $problem"
  fi
done

# Whole GPUs only: this query does not tell the processes of MIG instances apart.
for name in $(settings partitions.conf | awk 'NF == 2 { print $1 }'); do
  servers=$(servers_of "$name")
  [ -n "$servers" ] || continue
  gpu=$(setting_of partitions.conf "$name")
  device=$(gpu_uuid "$gpu")
  known=$(for server in $servers; do members "$server"; done)
  for pid in $(nvidia-smi -i "$device" --query-compute-apps=pid --format=csv,noheader); do
    printf '%s\n' "$known" | grep -qx "$pid" ||
      report "$gpu: process $pid is not a client of a planned MPS server: nothing limits it"
  done
done

[ "$problems" -eq 0 ]
