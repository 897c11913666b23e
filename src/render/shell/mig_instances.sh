#!/bin/sh
# mig-instances apply|check
#
# apply  creates the MIG instances of the plan that are missing, each at its placement, reads them
#        back, and notes the UUID of each. Instances that exist and are planned stay untouched;
#        instances that are not planned are an error, because somebody may be using them.
# check  the same without creating anything
set -eu
home=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=confine.sh
. "$home/bin/confine.sh"

# Prints "profile start:size instance" of each GPU instance, from rows like
# |   0  MIG 1g.10gb         19        7          0:1     |
instances() { # UUID
  nvidia-smi mig -i "$1" -lgi |
    awk '$3 == "MIG" && $(NF - 1) ~ /^[0-9]+:[0-9]+$/ { print $(NF - 3), $(NF - 1), $(NF - 2) }'
}

# Prints "instance uuid" of each MIG device: nvidia-smi -q tells an index by instance, -L a UUID by
# index.
mig_devices() { # UUID
  nvidia-smi -q -x -i "$1" | awk -F '[<>]' '
    $2 == "mig_device" { inside = 1 }
    $2 == "/mig_device" { inside = 0 }
    inside && $2 == "index" { position = $3 }
    inside && $2 == "gpu_instance_id" { print position, $3; inside = 0 }' |
    while read -r position instance; do
      nvidia-smi -L | awk -v gpu="$1" -v position="$position" -v instance="$instance" '
        /^GPU / { here = index($0, "(UUID: " gpu ")") > 0 }
        here && /^ *MIG / && match($0, /Device +[0-9]+:/) {
          found = substr($0, RSTART + 6, RLENGTH - 7) + 0
          uuid = $0
          sub(/.*UUID: /, "", uuid)
          sub(/\).*/, "", uuid)
          if (found == position + 0) print instance, uuid
        }'
    done
}

# Prints "profile start:size partition" of each MIG instance that the plan has on a GPU.
planned_on() { # GPU
  settings partitions.conf | while read -r name gpu profile start size; do
    if [ "$gpu" = "$1" ] && [ -n "$profile" ]; then
      printf '%s %s:%s %s\n' "$profile" "$start" "$size" "$name"
    fi
  done
}

mode_of() { nvidia-smi -i "$1" --query-gpu=mig.mode.current --format=csv,noheader; }

# The words "profile:start,..." that -cgi takes for what is planned on a GPU and not there.
missing() { # GPU UUID
  existing=$(instances "$2" | while read -r profile place _; do echo "$profile $place"; done)
  planned_on "$1" | while read -r profile place _; do
    printf '%s\n' "$existing" | grep -qxF "$profile $place" ||
      printf '%s:%s\n' "$profile" "${place%:*}"
  done | paste -s -d , -
}

refuse_others() { # GPU UUID
  planned=$(planned_on "$1" | while read -r profile place _; do echo "$profile $place"; done)
  instances "$2" | while read -r profile place instance; do
    printf '%s\n' "$planned" | grep -qxF "$profile $place" ||
      fail "$1: GPU instance $instance (profile $profile at $place) is not in the plan; if nobody" \
        "uses it: nvidia-smi mig -i $2 -gi $instance -dci, then -dgi"
  done
}

# Writes the UUID of each planned instance where device_of() finds it.
note_devices() { # GPU UUID
  devices=$(mig_devices "$2")
  existing=$(instances "$2")
  mkdir -p -- "$run_dir/mig"
  planned_on "$1" | while read -r profile place name; do
    instance=$(printf '%s\n' "$existing" |
      awk -v p="$profile" -v s="$place" '$1 == p && $2 == s { print $3 }')
    device=$(printf '%s\n' "$devices" | awk -v i="$instance" '$1 == i { print $2 }')
    [ -n "$device" ] || fail "$name: no MIG device for GPU instance $instance of $1"
    printf '%s\n' "$device" >"$run_dir/mig/$name.new"
    mv -f -- "$run_dir/mig/$name.new" "$run_dir/mig/$name"
  done
}

on_gpu() { # apply|check GPU
  device=$(gpu_uuid "$2")
  if [ -z "$(planned_on "$2")" ]; then
    [ "$(mode_of "$device")" != Enabled ] || fail "$2: has MIG mode on, which is not in the plan"
    return
  fi
  if [ "$(mode_of "$device")" != Enabled ] && [ "$1" = apply ]; then
    said=$(nvidia-smi -i "$device" -mig 1 2>&1) || fail "$2: $said"
  fi
  [ "$(mode_of "$device")" = Enabled ] ||
    fail "$2: MIG mode is not on; before Hopper it needs a GPU reset (nvidia-smi --gpu-reset)"
  refuse_others "$2" "$device"
  create=$(missing "$2" "$device")
  if [ -n "$create" ] && [ "$1" = apply ]; then
    said=$(nvidia-smi mig -i "$device" -cgi "$create" -C 2>&1) || fail "$2: $said"
    create=$(missing "$2" "$device")
  fi
  [ -z "$create" ] || fail "$2: MIG instances are missing (profile:start): $create"
  [ "$1" = check ] || note_devices "$2" "$device"
}

case ${1:-} in
  apply | check) [ "$#" -eq 1 ] || fail "usage: mig-instances apply|check" ;;
  *) fail "usage: mig-instances apply|check" ;;
esac
for name in $(settings gpus.conf | awk '{ print $1 }'); do
  on_gpu "$1" "$name"
done
