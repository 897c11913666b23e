// NVML's functions about processes, and those of sublet_sim.h that start and stop them.
#include <unistd.h>

#include <algorithm>
#include <exception>

#include "driver.h"
#include "sublet_sim.h"

namespace sublet::sim {

using namespace nvml;

namespace {

ProcessInfo ToInfo(const ProcessState& process) {
  return {.pid = static_cast<unsigned>(process.pid),
          .used_gpu_memory = static_cast<unsigned long long>(process.memory.count),
          .gpu_instance_id =
              process.gpu_instance < 0 ? kNoInstance : static_cast<unsigned>(process.gpu_instance),
          .compute_instance_id = process.compute_instance < 0
                                     ? kNoInstance
                                     : static_cast<unsigned>(process.compute_instance)};
}

Return ListProcesses(const char* function, Device device, ProcessType type, unsigned* count,
                     ProcessInfo* out) {
  return CallOn(function, device, [&](Driver&, const Target& target) {
    std::vector<ProcessInfo> list;
    for (const ProcessState& process : target.state->processes) {
      const bool here =
          process.gpu == target.gpu &&
          (!target.IsMigDevice() || (process.gpu_instance == target.gpu_instance &&
                                     process.compute_instance == target.compute_instance));
      if (here && process.type == type && IsAlive(process)) list.push_back(ToInfo(process));
    }
    return PutList(list, count, out);
  });
}

Bytes UsedMemory(const SimState& state, int gpu, int gpu_instance) {
  Bytes sum;
  for (const ProcessState& process : state.processes) {
    if (process.gpu == gpu && process.gpu_instance == gpu_instance) sum += process.memory;
  }
  return sum;
}

// Whether the process may start there: the compute instance exists, the mode admits it, it fits.
Return Admit(const Driver& driver, const SimState& state, const ProcessState& process) {
  if (process.gpu < 0 || process.gpu >= static_cast<int>(state.gpus.size())) return kNotFound;
  const GpuState& gpu = state.gpus[static_cast<std::size_t>(process.gpu)];
  const SimGpu& facts = driver.node().gpus[static_cast<std::size_t>(process.gpu)];
  if (gpu.lost) return kGpuIsLost;
  if (gpu.mig != (process.gpu_instance >= 0)) return kNotFound;
  Bytes room = facts.facts.memory - facts.facts.memory_reserved.value_or(Bytes{});
  if (process.gpu_instance >= 0) {
    const sublet::GpuInstance* instance = FindInstance(gpu, process.gpu_instance);
    if (instance == nullptr ||
        FindComputeInstance(*instance, process.compute_instance) == nullptr) {
      return kNotFound;
    }
    const ReportedProfile* profile = facts.facts.FindProfile(instance->profile_id);
    if (profile != nullptr) room = profile->memory;
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
  const Bytes used = UsedMemory(state, process.gpu, process.gpu_instance);
  return used + process.memory > room ? kMemory : kSuccess;
}

}  // namespace

SIM_EXPORT Return nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned* count,
                                                          ProcessInfo* processes) {
  return ListProcesses(__func__, device, ProcessType::kCompute, count, processes);
}

SIM_EXPORT Return nvmlDeviceGetGraphicsRunningProcesses_v3(Device device, unsigned* count,
                                                           ProcessInfo* processes) {
  return ListProcesses(__func__, device, ProcessType::kGraphics, count, processes);
}

SIM_EXPORT Return nvmlDeviceGetMPSComputeRunningProcesses_v3(Device device, unsigned* count,
                                                             ProcessInfo* processes) {
  return ListProcesses(__func__, device, ProcessType::kMpsClient, count, processes);
}

// The second version has the third's structure.
SIM_EXPORT Return nvmlDeviceGetComputeRunningProcesses_v2(Device device, unsigned* count,
                                                          ProcessInfo* processes) {
  return ListProcesses(__func__, device, ProcessType::kCompute, count, processes);
}

SIM_EXPORT Return nvmlDeviceGetGraphicsRunningProcesses_v2(Device device, unsigned* count,
                                                           ProcessInfo* processes) {
  return ListProcesses(__func__, device, ProcessType::kGraphics, count, processes);
}

SIM_EXPORT Return nvmlDeviceGetMPSComputeRunningProcesses_v2(Device device, unsigned* count,
                                                             ProcessInfo* processes) {
  return ListProcesses(__func__, device, ProcessType::kMpsClient, count, processes);
}

SIM_EXPORT int subletSimProcessStart(unsigned pid, unsigned gpu, unsigned gpu_instance,
                                     unsigned compute_instance, unsigned long long memory_bytes,
                                     unsigned type) {
  return Call(__func__, [&](Driver& driver) {
    constexpr unsigned long long kMemoryMax = 1ULL << 60;  // Sums stay within 64 bits.
    if (type > SUBLET_SIM_MPS_CLIENT || memory_bytes > kMemoryMax) return kInvalidArgument;
    if ((gpu_instance == kNoInstance) != (compute_instance == kNoInstance)) return kInvalidArgument;
    ProcessState process;
    process.pid = pid == 0 ? ::getpid() : static_cast<int>(pid);
    process.started = StartTimeOf(process.pid);
    process.gpu = static_cast<int>(gpu);
    process.gpu_instance = gpu_instance == kNoInstance ? -1 : static_cast<int>(gpu_instance);
    process.compute_instance =
        compute_instance == kNoInstance ? -1 : static_cast<int>(compute_instance);
    process.memory = Bytes{static_cast<std::int64_t>(memory_bytes)};
    process.type = static_cast<ProcessType>(type);
    if (process.started == 0) return kNotFound;
    return driver.Update([&](SimState& state) {
      const Return code = Admit(driver, state, process);
      if (code == kSuccess) state.processes.push_back(process);
      return code;
    });
  });
}

SIM_EXPORT int subletSimProcessStop(unsigned pid) {
  return Call(__func__, [&](Driver& driver) {
    const int wanted = pid == 0 ? ::getpid() : static_cast<int>(pid);
    return driver.Update([&](SimState& state) {
      const auto gone = std::erase_if(
          state.processes, [&](const ProcessState& process) { return process.pid == wanted; });
      return gone == 0 ? kNotFound : kSuccess;
    });
  });
}

}  // namespace sublet::sim
