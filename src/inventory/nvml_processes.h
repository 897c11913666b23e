// inventory/nvml_processes.h
//
// The driver's lists of processes, read whole while processes come and go.
//
//   if (const auto list = ListProcesses(api.device_mps_processes, device)) ...
//
// What may surprise: clients of MPS stand in the compute list too, and so does their server; only
// the clients stand in the MPS list. A client that faulted stays listed until its process ends. The
// lists are read one after the other, so a process that just starts may be in one of them only.
//
// Thread safety: no shared state.
#pragma once

#include <optional>
#include <vector>

#include "inventory/nvml_api.h"

namespace sublet {

using ProcessLister = nvml::Return (*)(nvml::Device, unsigned*, nvml::ProcessInfo*);

// Absent where the driver lacks the function or doesn't tell.
std::optional<std::vector<nvml::ProcessInfo>> ListProcesses(ProcessLister lister,
                                                            nvml::Device device);

}  // namespace sublet
