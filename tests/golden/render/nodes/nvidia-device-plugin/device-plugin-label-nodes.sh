#!/bin/sh
# Written by `sublet render` for the target nvidia-device-plugin, from the plan of the fleet "three
# nodes".
#
# Tells each node's device plugin, by the label nvidia.com/device-plugin.config, which of the
# configurations in the ConfigMap it takes.
set -eu

kubectl label node node-a --overwrite nvidia.com/device-plugin.config=mps-2
kubectl label node node-b --overwrite nvidia.com/device-plugin.config=time-slicing-2
kubectl label node node-c --overwrite nvidia.com/device-plugin.config=mig
