#!/bin/sh
# Written by `sublet render` for the target linux, from the plan of the fleet "pieces".
#
# Copies the scripts to /opt/sublet and the units to /etc/systemd/system; with an argument, below
# that folder instead of /. Replicas and MPS servers run as the user sublet, which it creates:
# clients of one MPS server must be of one user.
set -eu
source=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=${1:-}
units=$root/etc/systemd/system
home=$root/opt/sublet
if [ -z "$root" ] && ! id -u sublet >/dev/null 2>&1; then
  useradd --system --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin sublet
fi
mkdir -p -- "$units" "$home/bin" "$home/etc" "$home/replicas"
cp -- "$source"/bin/* "$home/bin/"
for file in gpus.conf partitions.conf servers.conf; do
  cp -- "$source/etc/$file" "$home/etc/"
done
cp -- "$source/replicas/chat-0" "$home/replicas/"
cp -- "$source/replicas/chat-1" "$home/replicas/"
cp -- "$source/replicas/video-0" "$home/replicas/"
cp -- "$source/replicas/embed-0" "$home/replicas/"
cp -- "$source/replicas/embed-1" "$home/replicas/"
cp -- "$source/systemd/sublet-mig.service" "$units/"
cp -- "$source/systemd/sublet-mps-gpu0-3g.40gb-0-default.service" "$units/"
cp -- "$source/systemd/sublet-replica-chat-0.service" "$units/"
cp -- "$source/systemd/sublet-replica-chat-1.service" "$units/"
cp -- "$source/systemd/sublet-replica-video-0.service" "$units/"
cp -- "$source/systemd/sublet-replica-embed-0.service" "$units/"
cp -- "$source/systemd/sublet-replica-embed-1.service" "$units/"
cp -- "$source/systemd/sublet.target" "$units/"
if [ -z "$root" ]; then
  systemctl daemon-reload
  echo "installed; start it with: systemctl enable --now sublet.target"
fi
