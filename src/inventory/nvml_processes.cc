#include "inventory/nvml_processes.h"

#include <algorithm>

namespace sublet {

std::optional<std::vector<nvml::ProcessInfo>> ListProcesses(ProcessLister lister,
                                                            nvml::Device device) {
  if (lister == nullptr) return std::nullopt;
  std::vector<nvml::ProcessInfo> processes;
  unsigned room = 64;
  // Processes come while they are counted; after four rounds of that there is no answer.
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
  return std::nullopt;
}

}  // namespace sublet
