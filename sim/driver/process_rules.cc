#include "process_rules.h"

#include <algorithm>

#include "driver.h"

namespace sublet::sim {

using namespace nvml;

Bytes UsedOn(const SimState& state, const ProcessState& process) {
  Bytes sum;
  for (const ProcessState& other : state.processes) {
    if (other.gpu == process.gpu && other.gpu_instance == process.gpu_instance) sum += other.memory;
  }
  return sum;
}

Bytes RoomOn(const SimNode& node, const SimState& state, const ProcessState& process) {
  const Gpu& facts = node.gpus[static_cast<std::size_t>(process.gpu)].facts;
  if (process.gpu_instance >= 0) {
    const sublet::GpuInstance* const instance =
        FindInstance(state.gpus[static_cast<std::size_t>(process.gpu)], process.gpu_instance);
    const ReportedProfile* const profile =
        instance == nullptr ? nullptr : facts.FindProfile(instance->profile_id);
    if (profile != nullptr) return profile->memory;
  }
  return facts.memory - facts.memory_reserved.value_or(Bytes{});
}

Return Admit(const SimNode& node, const SimState& state, const ProcessState& process) {
  if (process.gpu < 0 || process.gpu >= static_cast<int>(state.gpus.size())) return kNotFound;
  const GpuState& gpu = state.gpus[static_cast<std::size_t>(process.gpu)];
  if (gpu.lost) return kGpuIsLost;
  if (gpu.mig != (process.gpu_instance >= 0)) return kNotFound;
  if (process.gpu_instance >= 0) {
    const sublet::GpuInstance* instance = FindInstance(gpu, process.gpu_instance);
    if (instance == nullptr ||
        FindComputeInstance(*instance, process.compute_instance) == nullptr) {
      return kNotFound;
    }
  }
  const auto mode = static_cast<unsigned>(gpu.compute_mode);
  if (mode == kComputeModeProhibited) return kInUse;
  const bool alone = std::ranges::none_of(state.processes, [&](const ProcessState& other) {
    return other.gpu == process.gpu && other.gpu_instance == process.gpu_instance &&
           other.compute_instance == process.compute_instance &&
           other.type != ProcessType::kGraphics;
  });
  // MPS clients share their server's one context, which is why they pass.
  if (mode == kComputeModeExclusiveProcess && !alone && process.type == ProcessType::kCompute) {
    return kInUse;
  }
  return UsedOn(state, process) + process.memory > RoomOn(node, state, process) ? kMemory
                                                                                : kSuccess;
}

}  // namespace sublet::sim
