// measure/gpu_meter.h
//
// What NVML tells about the GPU while the lab works on it: memory of each process, energy, clocks.
//
//   ASSIGN_OR_RETURN(GpuMeter meter, GpuMeter::Open(nvml, uuid));
//   const std::optional<double> before = meter.EnergyMj();
//   ...
//   meter.ProcessMemory()[pid]
//
// Whatever the driver doesn't tell is absent: boards and drivers differ, and none of it is needed
// to measure rates.
//
// Thread safety: one thread at a time.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "inventory/nvml_library.h"
#include "model/measurement.h"

namespace sublet {

class GpuMeter {
 public:
  // REQUIRES: `nvml` outlives the meter.
  static Result<GpuMeter> Open(const NvmlLibrary& nvml, const std::string& uuid);

  // Of every process that computes on the GPU, by pid; empty where the driver can't tell pids
  // apart.
  std::map<int, Bytes> ProcessMemory() const;
  std::optional<double> EnergyMj() const;  // Since the driver was loaded.
  Bytes MemoryFree() const;
  Bytes DriverReserve() const;  // What the driver keeps for itself.
  // `time` is left empty.
  GpuConditions Conditions() const;
  // Of the library that it asks.
  const nvml::Api& api() const { return *api_; }

 private:
  GpuMeter(const NvmlLibrary& nvml, nvml::Device device) : api_(&nvml.api()), device_(device) {}

  const nvml::Api* api_;
  nvml::Device device_;
};

// The names of the throttle reasons in NVML's bit mask that slow a GPU: "sw power cap", "hw thermal
// slowdown", ... Idleness and clocks that somebody set are no reasons of that kind.
std::vector<std::string> ThrottleReasonNames(unsigned long long reasons);

}  // namespace sublet
