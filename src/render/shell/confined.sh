#!/bin/sh
# confined PARTITION SERVER MEMORY_MIB SM_PERCENT PROGRAM ARGUMENT...
#
# Becomes PROGRAM, confined to a partition of the plan and, where SERVER is not "-", to that MPS
# server with at most MEMORY_MIB and SM_PERCENT ("-": as the server has it). Refuses to start it
# where this user can't reach the server or the server has lost its limits, because CUDA would then
# use the whole GPU without a word.
set -eu
home=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=confine.sh
. "$home/bin/confine.sh"

[ "$#" -ge 5 ] || fail "usage: confined PARTITION SERVER MEMORY_MIB SM_PERCENT PROGRAM ARGUMENT..."
on_partition=$1
server=$2
memory_mib=$3
percent_max=$4
shift 4

device=$(device_of "$on_partition")
unset CUDA_MPS_ACTIVE_THREAD_PERCENTAGE CUDA_MPS_PINNED_DEVICE_MEM_LIMIT \
  CUDA_MPS_CLIENT_PRIORITY CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING
if [ "$server" = - ]; then
  # Not the default directory, where somebody else's daemon may be.
  CUDA_MPS_PIPE_DIRECTORY=/nonexistent
else
  read_server "$server"
  [ "$partition" = "$on_partition" ] || fail "$server does not serve $on_partition"
  answers "$server" || fail "$server: can't reach an MPS control daemon in $run_dir/$server/pipe"
  problem=$(limits_hold "$server") || fail "$server: $problem"
  CUDA_MPS_PIPE_DIRECTORY=$run_dir/$server/pipe
  if [ "$percent_max" != - ]; then
    export CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="$percent_max"
  fi
  # One entry, for the one device that is visible: an entry for another would lift every limit.
  if [ "$memory_mib" != - ]; then
    export CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=${memory_mib}M"
  fi
fi
export CUDA_MPS_PIPE_DIRECTORY CUDA_VISIBLE_DEVICES="$device"
exec "$@"
