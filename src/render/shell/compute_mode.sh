#!/bin/sh
# compute-mode GPU EXCLUSIVE_PROCESS|DEFAULT
#
# Sets the compute mode of a GPU of the plan and reads it back. With EXCLUSIVE_PROCESS the driver
# admits nobody but the one MPS server: a process that misses the server gets an error instead of
# the whole GPU.
set -eu
home=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=confine.sh
. "$home/bin/confine.sh"

[ "$#" -eq 2 ] || fail "usage: compute-mode GPU EXCLUSIVE_PROCESS|DEFAULT"
case $2 in
  EXCLUSIVE_PROCESS) wanted=Exclusive_Process ;;
  DEFAULT) wanted=Default ;;
  *) fail "unknown compute mode: $2" ;;
esac
device=$(gpu_uuid "$1")
said=$(nvidia-smi -i "$device" -c "$2" 2>&1) || fail "$1: $said"
mode=$(nvidia-smi -i "$device" --query-gpu=compute_mode --format=csv,noheader)
[ "$mode" = "$wanted" ] || fail "$1: compute mode is \"$mode\", wanted $wanted"
