// inventory/host.h
//
// What surrounds the GPUs: the host's facts and the MPS daemons that run on it.
//
// Both functions only read: /proc, a few well-known folders, and for MPS the control program's
// `get_server_list`, which changes nothing.
//
//   Host host = ReadHost({}, environment);
//   std::vector<FoundMpsDaemon> daemons = FindMpsDaemons({}, host);
//
// Thread safety: no shared state.
#pragma once

#include <string>
#include <vector>

#include "inventory/nvml_library.h"
#include "model/inventory.h"

namespace sublet {

struct HostPaths {
  std::string
      root;  // Put in front of /proc, /sys, /dev, /run, /tmp; for tests. Empty: the machine.
};

Host ReadHost(const HostPaths& paths, const Environment& environment);

// Processes that are MPS control daemons, and folders where one says that it runs. `answers` is set
// where nvidia-cuda-mps-control (host.mps_control) got an answer within two seconds.
std::vector<FoundMpsDaemon> FindMpsDaemons(const HostPaths& paths, const Host& host);

}  // namespace sublet
