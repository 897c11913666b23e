#!/bin/sh
# mps-server start|check|stop|run SERVER
#
# start  starts the control daemon of an MPS server of the plan, sets its limits, reads them back,
#        and stops it again if they are not what was planned
# check  succeeds if the daemon answers and holds its limits
# stop   stops it
# run    start, then watch it in the foreground until it fails or a signal comes (for containers)
set -eu
home=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=confine.sh
. "$home/bin/confine.sh"

start_tries_max=${SUBLET_START_TRIES:-100} # A tenth of a second each.
watch_seconds=${SUBLET_WATCH_SECONDS:-5}

check() {
  answers "$1" || fail "$1: no MPS control daemon answers in $run_dir/$1/pipe"
  problem=$(limits_hold "$1") || fail "$1: $problem"
}

# Waits until the daemon answers (yes) or is gone (no).
wait_until() { # yes|no SERVER
  tries=0
  while [ "$tries" -lt "$start_tries_max" ]; do
    if answers "$2"; then now=yes; else now=no; fi
    [ "$now" != "$1" ] || return 0
    sleep 0.1
    tries=$((tries + 1))
  done
  return 1
}

stop() {
  answers "$1" || return 0
  ask "$1" quit >/dev/null
  wait_until no "$1" || fail "$1: the MPS control daemon goes on after quit"
}

start() {
  if answers "$1"; then
    # Limits are for servers that start after they were set: those of a running daemon stay as
    # they are.
    check "$1"
    return
  fi
  device=$(device_of "$partition")
  mkdir -p -- "$run_dir/$1/pipe" "$log_dir/$1"
  chmod -- "${SUBLET_PIPE_MODE:-0700}" "$run_dir/$1/pipe"
  CUDA_VISIBLE_DEVICES=$device CUDA_MPS_PIPE_DIRECTORY="$run_dir/$1/pipe" \
    CUDA_MPS_LOG_DIRECTORY="$log_dir/$1" nvidia-cuda-mps-control -d ||
    fail "$1: the MPS control daemon does not start on $device; see $log_dir/$1/control.log"
  wait_until yes "$1" || {
    stop "$1"
    fail "$1: the MPS control daemon does not answer; see $log_dir/$1/control.log"
  }
  [ "$sm_percent" = - ] || ask "$1" "set_default_active_thread_percentage $sm_percent" >/dev/null
  # The daemon sees one device, which is its device 0.
  [ "$memory_limit_mib" = - ] ||
    ask "$1" "set_default_device_pinned_mem_limit 0 ${memory_limit_mib}M" >/dev/null
  if ! problem=$(limits_hold "$1"); then
    stop "$1"
    fail "$1: $problem; stopped it again"
  fi
}

run() {
  trap 'stop "$server"; exit 0' TERM INT
  start "$1"
  while problem=$(answers "$1" && limits_hold "$1"); do
    sleep "$watch_seconds" &
    wait $!
  done
  fail "$1: the MPS control daemon is gone or has lost its limits: $problem"
}

[ "$#" -eq 2 ] || fail "usage: mps-server start|check|stop|run SERVER"
server=$2
read_server "$server"
case $1 in
  start | check | stop | run) "$1" "$server" ;;
  *) fail "usage: mps-server start|check|stop|run SERVER" ;;
esac
