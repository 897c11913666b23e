# shellcheck shell=sh disable=SC2034,SC2154
# Settings of this machine's plan, and the dialogue with an MPS control daemon. Sourced by the
# scripts beside it, which set `home` to the folder above and use the variables set here.

run_dir=${SUBLET_RUN_DIR:-/run/sublet}
log_dir=${SUBLET_LOG_DIR:-/var/log/sublet}
ask_tries_max=50       # A tenth of a second each: 48 clients that start together are served.
answer_seconds_max=10  # A daemon answers within milliseconds; a wedged one never.

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# Prints the lines of etc/FILE that are settings.
settings() { # FILE
  grep -v '^#' "$home/etc/$1" || true
}

# Prints the words after NAME in etc/FILE; fails if no line begins with it.
setting_of() { # FILE NAME
  while read -r setting_name setting_words; do
    if [ "$setting_name" = "$2" ]; then
      printf '%s\n' "$setting_words"
      return 0
    fi
  done <"$home/etc/$1"
  return 1
}

# Prints the UUID of a GPU of the plan.
gpu_uuid() { # GPU
  uuid=$(setting_of gpus.conf "$1") || fail "no such GPU in etc/gpus.conf: $1"
  [ -n "$uuid" ] || fail "etc/gpus.conf: write the UUID of $1 beside it (nvidia-smi -L lists them)"
  printf '%s\n' "$uuid"
}

# Prints what CUDA_VISIBLE_DEVICES must hold for a partition. A container that was given one device
# says so by SUBLET_DEVICE.
device_of() { # PARTITION
  if [ -n "${SUBLET_DEVICE:-}" ]; then
    printf '%s\n' "$SUBLET_DEVICE"
    return
  fi
  words=$(setting_of partitions.conf "$1") || fail "no such partition in etc/partitions.conf: $1"
  case $words in
    *' '*)
      [ -s "$run_dir/mig/$1" ] || fail "MIG instance $1 is not known to exist: mig-instances apply"
      cat "$run_dir/mig/$1"
      ;;
    *) gpu_uuid "$words" ;;
  esac
}

# Reads a server's settings into partition, memory_limit_mib and sm_percent.
read_server() { # SERVER
  words=$(setting_of servers.conf "$1") || fail "no such MPS server in etc/servers.conf: $1"
  read -r partition memory_limit_mib sm_percent <<WORDS
$words
WORDS
}

# Prints what the control daemon of a server answers. The daemon serves one control program at a
# time and turns the others away, so replicas that start together must ask again.
ask() { # SERVER COMMAND
  asked=0
  while :; do
    said=$(ask_once "$1" "$2")
    asked=$((asked + 1))
    case $said in
      'Cannot send command'*) [ "$asked" -ge "$ask_tries_max" ] || {
        sleep 0.1
        continue
      } ;;
    esac
    break
  done
  [ -z "$said" ] || printf '%s\n' "$said"
}

# The exit status of the control program says nothing about the answer.
ask_once() { # SERVER COMMAND
  if command -v timeout >/dev/null 2>&1; then
    set -- "$1" "$2" timeout "$answer_seconds_max"
  else
    set -- "$1" "$2"
  fi
  ask_server=$1
  ask_command=$2
  shift 2
  printf '%s\n' "$ask_command" |
    CUDA_MPS_PIPE_DIRECTORY="$run_dir/$ask_server/pipe" "$@" nvidia-cuda-mps-control 2>&1 || true
}

# Succeeds if the daemon of a server is there and is what it seems.
answers() { # SERVER
  answer=$(ask "$1" get_default_active_thread_percentage)
  case $answer in
    '' | *[!0-9.]*) return 1 ;;
    *) return 0 ;;
  esac
}

# Succeeds if the daemon holds the planned limits; otherwise says on standard output what is wrong.
# REQUIRES: read_server.
limits_hold() { # SERVER
  percent=$(ask "$1" get_default_active_thread_percentage)
  planned=$sm_percent
  [ "$planned" != - ] || planned=100
  if [ "${percent%.0}" != "$planned" ]; then
    printf 'SM limit is "%s", planned %s\n' "$percent" "$planned"
    return 1
  fi
  [ "$memory_limit_mib" != - ] || return 0
  memory=$(ask "$1" 'get_default_device_pinned_mem_limit 0')
  number=${memory%[KMG]}
  case $number in
    '' | *[!0-9]*) number=-1 ;;
  esac
  case $memory in
    *G) planned=$((memory_limit_mib / 1024)) ;;
    *M) planned=$memory_limit_mib ;;
    *K) planned=$((memory_limit_mib * 1024)) ;;
    *) number=-1 ;;
  esac
  if [ "$number" != "$planned" ]; then
    printf 'memory limit is "%s", planned %s MiB\n' "$memory" "$memory_limit_mib"
    return 1
  fi
}
