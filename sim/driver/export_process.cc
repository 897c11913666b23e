// NVML's functions about processes, and those of sublet_sim.h that start and stop them.
#include <unistd.h>

#include <algorithm>
#include <exception>

#include "driver.h"
#include "process_rules.h"
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
      // An MPS client is in the list of compute processes, too.
      const bool listed = process.type == type || (process.type == ProcessType::kMpsClient &&
                                                   type == ProcessType::kCompute);
      if (here && listed && IsAlive(process)) list.push_back(ToInfo(process));
    }
    return PutList(list, count, out);
  });
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
      const Return code = Admit(driver.node(), state, process);
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
