#include "measure/gpu_meter.h"

#include <fmt/format.h>

#include <array>
#include <string_view>
#include <utility>

namespace sublet {
namespace {

constexpr unsigned kProcessesMax = 1024;  // More than forty lists of everybody's could hold.

using ProcessList = nvml::Return (*)(nvml::Device, unsigned*, nvml::ProcessInfo*);

void AddProcesses(ProcessList list, nvml::Device device, std::map<int, Bytes>& out) {
  if (list == nullptr) return;
  std::vector<nvml::ProcessInfo> infos(kProcessesMax);
  auto count = static_cast<unsigned>(infos.size());
  if (list(device, &count, infos.data()) != nvml::kSuccess) return;
  for (unsigned i = 0; i < count; ++i) {
    if (infos[i].used_gpu_memory == nvml::kValueNotAvailable) continue;
    out[static_cast<int>(infos[i].pid)] =
        Bytes{static_cast<std::int64_t>(infos[i].used_gpu_memory)};
  }
}

}  // namespace

std::vector<std::string> ThrottleReasonNames(unsigned long long reasons) {
  constexpr std::array<std::pair<unsigned long long, std::string_view>, 6> kNames{{
      {nvml::kClocksSwPowerCap, "sw power cap"},
      {nvml::kClocksHwSlowdown, "hw slowdown"},
      {nvml::kClocksSyncBoost, "sync boost"},
      {nvml::kClocksSwThermalSlowdown, "sw thermal slowdown"},
      {nvml::kClocksHwThermalSlowdown, "hw thermal slowdown"},
      {nvml::kClocksHwPowerBrake, "hw power brake"},
  }};
  std::vector<std::string> names;
  for (const auto& [bit, name] : kNames) {
    if ((reasons & bit) != 0) names.emplace_back(name);
  }
  return names;
}

Result<GpuMeter> GpuMeter::Open(const NvmlLibrary& nvml, const std::string& uuid) {
  ASSIGN_OR_RETURN(const nvml::Device device, FindDevice(nvml.api(), uuid));
  return GpuMeter(nvml, device);
}

std::map<int, Bytes> GpuMeter::ProcessMemory() const {
  std::map<int, Bytes> memory;
  AddProcesses(api_->device_compute_processes, device_, memory);
  AddProcesses(api_->device_mps_processes, device_, memory);
  return memory;
}

std::optional<double> GpuMeter::EnergyMj() const {
  unsigned long long energy = 0;
  if (api_->device_energy == nullptr || api_->device_energy(device_, &energy) != nvml::kSuccess) {
    return std::nullopt;
  }
  return static_cast<double>(energy);
}

Bytes GpuMeter::MemoryFree() const {
  nvml::Memory memory{};
  if (api_->device_memory(device_, &memory) != nvml::kSuccess) return {};
  return Bytes{static_cast<std::int64_t>(memory.free)};
}

Bytes GpuMeter::DriverReserve() const {
  nvml::MemoryV2 memory{};
  memory.version = nvml::StructVersion<nvml::MemoryV2>(2);
  if (api_->device_memory_v2 == nullptr ||
      api_->device_memory_v2(device_, &memory) != nvml::kSuccess) {
    return {};
  }
  return Bytes{static_cast<std::int64_t>(memory.reserved)};
}

GpuConditions GpuMeter::Conditions() const {
  GpuConditions now;
  unsigned value = 0;
  const auto clock = [&](unsigned which, std::optional<int>& out) {
    if (api_->device_clock != nullptr &&
        api_->device_clock(device_, which, &value) == nvml::kSuccess) {
      out = static_cast<int>(value);
    }
  };
  clock(nvml::kClockSm, now.sm_clock_mhz);
  clock(nvml::kClockMemory, now.memory_clock_mhz);
  if (api_->device_temperature != nullptr &&
      api_->device_temperature(device_, nvml::kTemperatureGpu, &value) == nvml::kSuccess) {
    now.temperature_c = static_cast<int>(value);
  }
  if (api_->device_power != nullptr && api_->device_power(device_, &value) == nvml::kSuccess) {
    now.power_w = value / 1000.0;
  }
  const auto reasons_of = api_->device_clock_reasons != nullptr ? api_->device_clock_reasons
                                                                : api_->device_throttle_reasons;
  unsigned long long reasons = 0;
  if (reasons_of != nullptr && reasons_of(device_, &reasons) == nvml::kSuccess) {
    now.throttle_reasons = ThrottleReasonNames(reasons);
  }
  return now;
}

}  // namespace sublet
