#!/bin/sh
# Written by `sublet render` for the target mig, from the plan of the fleet "two tenants".
#
# Tells each node's MIG manager which configuration of the ConfigMap it applies.
set -eu


if [ "$#" -lt 2 ]; then
  echo "usage: $0 CONFIGURATION NODE..." >&2
  echo "configurations:" sublet >&2
  exit 2
fi
configuration=$1
shift
case $configuration in
  sublet) ;;
  *)
    echo "$0: unknown configuration: $configuration" >&2
    exit 2
    ;;
esac
for node in "$@"; do
  kubectl label node "$node" --overwrite "nvidia.com/mig.config=$configuration"
done
