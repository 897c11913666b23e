#!/bin/sh
# Written by `sublet render` for the target mig, from the plan of the fleet "three nodes".
#
# Tells each node's MIG manager which configuration of the ConfigMap it applies.
set -eu

kubectl label node node-a --overwrite nvidia.com/mig.config=sublet-1
kubectl label node node-b --overwrite nvidia.com/mig.config=sublet-2
kubectl label node node-c --overwrite nvidia.com/mig.config=sublet-3
