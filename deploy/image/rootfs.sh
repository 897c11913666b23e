#!/usr/bin/env bash
# deploy/image/rootfs.sh BUNDLE ROOT: the image's root file system, out of an unpacked bundle and
# this machine's glibc, which must not be older than the one that the bundle was built with.
#
#   ./dev bundle && deploy/image/rootfs.sh build/bundle/sublet-0.1.0-linux-x86_64 /tmp/rootfs
#
# The same input gives the same files. ROOT must be empty or absent.
set -euo pipefail

if (($# != 2)) || [[ ! -x $1/bin/sublet ]]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
bundle=$1 root=$2
if [[ -n $(ls -A "$root" 2>/dev/null) ]]; then
  printf 'rootfs.sh: not empty: %s\n' "$root" >&2
  exit 1
fi

LIBRARIES=usr/lib/x86_64-linux-gnu
umask 022
mkdir -p "$root"/{etc,proc,sys,dev,run,opt/sublet,usr/bin,usr/lib64,"$LIBRARIES"}
mkdir -p "$root"/var/lib "$root"/var/log
ln -s ../run "$root/var/run"
# As Debian has it, so that what a runtime puts there is found where it looks.
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
ln -s usr/bin "$root/bin"
mkdir -m 1777 "$root/tmp"

cp -r "$bundle"/{bin,lib,data,LICENSE} "$root/opt/sublet/"
mkdir -p "$root/opt/sublet/share/doc"
cp -r "$bundle/share/doc/licences" "$root/opt/sublet/share/doc/"
ln -s ../../opt/sublet/bin/sublet "$root/usr/bin/sublet"

# What Sublet needs of glibc, and what the driver's own programs and libraries need of it besides.
glibc_file() {
  local path
  for path in /lib/x86_64-linux-gnu /lib64 /usr/lib64; do
    [[ -e $path/$1 ]] && readlink -f "$path/$1" && return
  done
  printf 'rootfs.sh: this machine has no %s\n' "$1" >&2
  return 1
}
for name in libc.so.6 libm.so.6 libmvec.so.1 libdl.so.2 libpthread.so.0 librt.so.1 \
  libresolv.so.2; do
  install -m 0755 "$(glibc_file "$name")" "$root/$LIBRARIES/$name"
done
install -m 0755 "$(glibc_file ld-linux-x86-64.so.2)" "$root/usr/lib64/ld-linux-x86-64.so.2"
if [[ -f /usr/share/doc/libc6/copyright ]]; then
  cp /usr/share/doc/libc6/copyright "$root/opt/sublet/share/doc/licences/libc6"
fi

printf 'root:x:0:0:root:/:/usr/bin/sublet\nsublet:x:65532:65532:sublet:/:/usr/bin/sublet\n' \
  >"$root/etc/passwd"
printf 'root:x:0:\nsublet:x:65532:\n' >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
# NVIDIA's container runtime looks for this file to learn in which folder libraries belong.
printf '12\n' >"$root/etc/debian_version"
