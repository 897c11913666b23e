#!/bin/sh
# Written by `sublet render` for the target mig, from the plan of the fleet "pieces".
#
# Tells each node's MIG manager which configuration of the ConfigMap it applies.
set -eu

kubectl label node gpu-a --overwrite nvidia.com/mig.config=sublet
