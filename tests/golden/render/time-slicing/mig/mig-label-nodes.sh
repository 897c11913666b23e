#!/bin/sh
# Written by `sublet render` for the target mig, from the plan of the fleet "embedders".
#
# Tells each node's MIG manager which configuration of the ConfigMap it applies.
set -eu

kubectl label node edge-1 --overwrite nvidia.com/mig.config=sublet
