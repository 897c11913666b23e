#include "exe/planning_node.h"

#include <algorithm>
#include <utility>

namespace sublet {
namespace {

const GpuStatus* Find(const NodeStatus& status, const std::string& uuid) {
  for (const GpuStatus& gpu : status.gpus) {
    if (gpu.uuid == uuid) return &gpu;
  }
  return nullptr;
}

// The share that keeps others away from a GPU, or nullptr.
const ShareStatus* Holder(const NodeStatus& status, const std::string& uuid) {
  for (const ShareStatus& each : status.shares) {
    const bool whole = each.share.mode == SharingMode::kExclusive && each.share.mig_uuid.empty();
    if (!each.replica && whole && each.share.gpu_uuid == uuid) return &each;
  }
  return nullptr;
}

}  // namespace

Inventory ForPlanning(Inventory node, const NodeStatus& status) {
  for (Gpu& gpu : node.gpus) {
    const GpuStatus* const now = Find(status, gpu.uuid);
    // One that the node doesn't know stays as the driver shows it.
    if (now == nullptr) continue;
    std::erase_if(gpu.processes, [&](const GpuProcess& process) {
      return std::none_of(now->foreign.begin(), now->foreign.end(),
                          [&](const ForeignProcess& each) { return each.pid == process.pid; });
    });
    if (const ShareStatus* const holder = Holder(status, gpu.uuid)) {
      GpuProcess process;
      process.pid = holder->pid.value_or(0);
      process.name = holder->share.name;
      gpu.processes.push_back(std::move(process));
    }
    if (!now->healthy && gpu.problem.empty()) gpu.problem = now->why;
  }
  return node;
}

}  // namespace sublet
