#!/bin/sh
# A stand-in for NVIDIA's MPS control program with the faults that the real one shows seldom.
#
# With -f it is the daemon: files in the pipe directory, and a process that waits. Without, commands
# come on standard input. FAKE_MPS picks a fault: refuse (the daemon ends at once), mute (nobody
# ever answers), late (answers from the third question on), busy (serves another program, three
# times), deaf (takes limits and forgets them), stubborn (neither quit nor SIGTERM end it), orphans
# (a server stays when the daemon has ended).
set -u
pipe=$CUDA_MPS_PIPE_DIRECTORY
fault=${FAKE_MPS:-}

if [ "${1:-}" = -f ]; then
  echo "devices $CUDA_VISIBLE_DEVICES"
  if [ "$fault" = refuse ]; then
    echo "Failed to open the device"
    exit 1
  fi
  [ "$fault" != stubborn ] || trap '' TERM
  if [ "$fault" = orphans ]; then
    # shellcheck disable=SC2016  # The inner shell expands it.
    setsid sh -c 'trap "" TERM
      echo $$ >"$CUDA_MPS_PIPE_DIRECTORY/server"
      while :; do sleep 1; done' &
  fi
  echo 100.0 >"$pipe/percent"
  mkfifo "$pipe/end"
  echo $$ >"$pipe/nvidia-cuda-mps-control.pid"
  # Opened for both, so that the read waits for `quit` alone.
  while read -r _ <>"$pipe/end"; do
    [ "$fault" = stubborn ] || exit 0
  done
  exit 0
fi

count() { # Questions so far, with this one.
  printf x >>"$pipe/asked"
  wc -c <"$pipe/asked"
}

if [ "$fault" = mute ]; then
  exec sleep 60
fi
if [ ! -e "$pipe/nvidia-cuda-mps-control.pid" ] ||
  { [ "$fault" = late ] && [ "$(count)" -lt 3 ]; }; then
  echo "Cannot find MPS control daemon process"
  exit 1
fi
read -r command one two
if [ "$fault" = busy ] && [ "$command" != get_server_list ] && [ "$(count)" -lt 4 ]; then
  echo "Cannot send command to MPS control daemon process"
  exit 1
fi
case $command in
  get_default_active_thread_percentage) cat "$pipe/percent" ;;
  set_default_active_thread_percentage)
    [ "$fault" = deaf ] || echo "$one.0" >"$pipe/percent"
    cat "$pipe/percent"
    ;;
  get_default_device_pinned_mem_limit)
    mib=$(cat "$pipe/memory" 2>/dev/null) || {
      echo "No default pinned memory limit set for the device!"
      exit 0
    }
    if [ "$mib" -ge 1024 ]; then echo "$((mib / 1024))G"; else echo "${mib}M"; fi
    ;;
  set_default_device_pinned_mem_limit) [ "$fault" = deaf ] || echo "${two%M}" >"$pipe/memory" ;;
  get_server_list) [ ! -e "$pipe/server" ] || cat "$pipe/server" ;;
  get_client_list)
    if [ -e "$pipe/server" ]; then printf '11\n12\n'; else echo "Server not found"; fi
    ;;
  start_server) echo 4242 >"$pipe/server" ;;
  quit) echo quit >"$pipe/end" ;;
  *) echo "Unknown command \"$command\"" ;;
esac
