#include "inventory/nvml_processes.h"

#include <algorithm>

namespace sublet {

std::vector<nvml::ProcessInfo> ListProcesses(ProcessLister lister, nvml::Device device) {
  std::vector<nvml::ProcessInfo> processes;
  if (lister == nullptr) return processes;
  unsigned room = 64;
  // Processes come while they are counted; after four rounds of that the answer stays empty.
  for (int attempt = 0; attempt < 4; ++attempt) {
    processes.resize(room);
    unsigned count = room;
    const nvml::Return code = lister(device, &count, processes.data());
    if (code == nvml::kSuccess) {
      processes.resize(std::min(count, room));
      return processes;
    }
    if (code != nvml::kInsufficientSize) break;
    room = count + 32;
  }
  return {};
}

}  // namespace sublet
