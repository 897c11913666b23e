// The functions of sublet_sim.h that play hardware: faults and resets.
#include <algorithm>
#include <utility>

#include "driver.h"
#include "sublet_sim.h"

namespace sublet::sim {

using namespace nvml;

namespace {

constexpr std::size_t kFaultsMax = 64;  // Every call looks through them.

Return AddFault(const SimNode& node, SimState& state, const FaultRule& rule, const char* text) {
  const bool of_gpu = rule.kind != FaultRule::Kind::kFail && rule.kind != FaultRule::Kind::kHang;
  if (of_gpu && rule.gpu >= static_cast<int>(node.gpus.size())) return kNotFound;
  switch (rule.kind) {
    case FaultRule::Kind::kLost:
      state.gpus[static_cast<std::size_t>(rule.gpu)].lost = true;
      break;
    case FaultRule::Kind::kEcc:
      state.gpus[static_cast<std::size_t>(rule.gpu)].ecc_uncorrected += rule.errors;
      break;
    case FaultRule::Kind::kRemap:
      state.gpus[static_cast<std::size_t>(rule.gpu)].remap_pending = true;
      break;
    case FaultRule::Kind::kXid:
      state.events.push_back({.number = ++state.events_seen,
                              .gpu = rule.gpu,
                              .xid = rule.xid,
                              .gpu_instance = rule.gpu_instance,
                              .compute_instance = rule.compute_instance});
      if (state.events.size() > kEventsMax) state.events.erase(state.events.begin());
      break;
    case FaultRule::Kind::kFail:
    case FaultRule::Kind::kHang:
      if (state.faults.size() >= kFaultsMax) return kInsufficientResources;
      state.faults.emplace_back(text);
      break;
  }
  return kSuccess;
}

}  // namespace

SIM_EXPORT int subletSimFault(const char* rule) {
  return Call(__func__, [&](Driver& driver) {
    if (rule == nullptr) return kInvalidArgument;
    const Result<std::vector<FaultRule>> rules = ParseFaults(rule);
    if (!rules || rules->size() != 1) return kInvalidArgument;
    return driver.Update(
        [&](SimState& state) { return AddFault(driver.node(), state, rules->front(), rule); });
  });
}

SIM_EXPORT int subletSimClearFaults() {
  return Call(__func__, [&](Driver& driver) {
    return driver.Update([](SimState& state) {
      state.faults.clear();
      for (GpuState& gpu : state.gpus) gpu.lost = false;
      return kSuccess;
    });
  });
}

SIM_EXPORT int subletSimResetGpu(unsigned gpu) {
  return Call(__func__, [&](Driver& driver) {
    if (gpu >= driver.node().gpus.size()) return kNotFound;
    return driver.Update([&](SimState& state) {
      const bool used = std::ranges::any_of(state.processes, [&](const ProcessState& process) {
        return process.gpu == static_cast<int>(gpu);
      });
      if (used) return kInUse;
      GpuState& one = state.gpus[gpu];
      one.lost = false;
      one.ecc_uncorrected = 0;
      one.remap_pending = false;
      one.mig = one.mig_pending;
      one.instances.clear();  // Instances don't outlive a reset.
      return kSuccess;
    });
  });
}

SIM_EXPORT int subletSimResetNode() {
  return Call(__func__, [&](Driver& driver) {
    return driver.Update([&](SimState& state) {
      const long long seen = state.events_seen;  // Numbers go on, for those who wait.
      state = InitialState(driver.node());
      state.events_seen = seen;
      return kSuccess;
    });
  });
}

}  // namespace sublet::sim
