// NVML's functions about a device: what it is, how it is doing.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <string>

#include "driver.h"

namespace sublet::sim {

using namespace nvml;

namespace {

const sublet::GpuInstance* InstanceOf(const Target& target) {
  return target.gpu_instance < 0 ? nullptr : FindInstance(target.gpu_state(), target.gpu_instance);
}

const ReportedProfile* ProfileOf(const Driver& driver, const Target& target) {
  const sublet::GpuInstance* instance = InstanceOf(target);
  return instance == nullptr ? nullptr : driver.gpu(target).facts.FindProfile(instance->profile_id);
}

Bytes TotalMemory(const Driver& driver, const Target& target) {
  const ReportedProfile* profile = ProfileOf(driver, target);
  return profile == nullptr ? driver.gpu(target).facts.memory : profile->memory;
}

Bytes ReservedMemory(const Driver& driver, const Target& target) {
  if (target.IsMigDevice()) return {};
  return driver.gpu(target).facts.memory_reserved.value_or(Bytes{});
}

Bytes ProcessMemory(const Target& target) {
  Bytes sum;
  for (const ProcessState& process : target.state->processes) {
    const bool here = process.gpu == target.gpu &&
                      (!target.IsMigDevice() || process.gpu_instance == target.gpu_instance);
    if (here && IsAlive(process)) sum += process.memory;
  }
  return sum;
}

struct PciParts {
  unsigned domain = 0;
  unsigned bus = 0;
  unsigned device = 0;
};

// "00000000:18:00.0", also with a domain of four digits.
bool ParsePci(std::string_view text, PciParts& parts) {
  unsigned* const numbers[] = {&parts.domain, &parts.bus, &parts.device};
  constexpr std::string_view kSeparators = "::.";
  for (std::size_t i = 0; i < 3; ++i) {
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), *numbers[i], 16);
    if (ec != std::errc()) return false;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    if (text.empty() || text.front() != kSeparators[i]) return false;
    text.remove_prefix(1);
  }
  return !text.empty();
}

std::string DeviceName(const Driver& driver, const Target& target) {
  const ReportedProfile* profile = ProfileOf(driver, target);
  const std::string& product = driver.gpu(target).facts.product;
  return profile == nullptr ? product : fmt::format("{} MIG {}", product, profile->name);
}

int CoresPerSm(const Gpu& gpu) {
  const bool small = gpu.compute_capability_major == 7 ||
                     (gpu.compute_capability_major == 8 && gpu.compute_capability_minor == 0);
  return small ? 64 : 128;
}

// NVML numbers architectures by age.
unsigned Architecture(const Gpu& gpu) {
  switch (gpu.compute_capability_major) {
    case 7:
      return gpu.compute_capability_minor >= 5 ? 6 : 5;  // Turing, Volta
    case 8:
      return gpu.compute_capability_minor == 9 ? 8 : 7;  // Ada, Ampere
    case 9:
      return 9;  // Hopper
    case 10:
    case 12:
      return 10;  // Blackwell
    default:
      return 0xFFFFFFFF;
  }
}

// Uncorrectable errors that were asked for as faults.
long long MemoryErrorsOf(Driver& driver, const Target& target) {
  long long errors = target.gpu_state().ecc_uncorrected;
  for (const FaultRule& rule : driver.own_faults()) {
    if (rule.kind == FaultRule::Kind::kEcc && rule.gpu == target.gpu) errors += rule.errors;
  }
  return errors;
}

bool HasOwnRemap(Driver& driver, const Target& target) {
  return std::ranges::any_of(driver.own_faults(), [&](const FaultRule& rule) {
    return rule.kind == FaultRule::Kind::kRemap && rule.gpu == target.gpu;
  });
}

}  // namespace

SIM_EXPORT Return nvmlDeviceGetCount_v2(unsigned* count) {
  return Call(__func__, [&](Driver& driver) { return Put(driver.node().gpus.size(), count); });
}

SIM_EXPORT Return nvmlDeviceGetCount(unsigned* count) {
  return nvmlDeviceGetCount_v2(count);
}

SIM_EXPORT Return nvmlDeviceGetHandleByIndex_v2(unsigned index, Device* device) {
  return Call(__func__, [&](Driver& driver) {
    if (device == nullptr || index >= driver.node().gpus.size()) return kInvalidArgument;
    Target target;
    const Device handle = DeviceHandle(static_cast<int>(index));
    if (const Return code = driver.Resolve(handle, target); code != kSuccess) return code;
    *device = handle;
    return kSuccess;
  });
}

SIM_EXPORT Return nvmlDeviceGetHandleByIndex(unsigned index, Device* device) {
  return nvmlDeviceGetHandleByIndex_v2(index, device);
}

SIM_EXPORT Return nvmlDeviceGetHandleByUUID(const char* uuid, Device* device) {
  return Call(__func__, [&](Driver& driver) {
    if (uuid == nullptr || device == nullptr) return kInvalidArgument;
    for (int gpu = 0; gpu < static_cast<int>(driver.node().gpus.size()); ++gpu) {
      Target target;
      const Return code = driver.Resolve(DeviceHandle(gpu), target);
      if (code != kSuccess) continue;  // Lost.
      if (driver.UuidOf(target) == uuid) return Put(DeviceHandle(gpu), device);
      for (const sublet::GpuInstance& instance : target.gpu_state().instances) {
        for (const sublet::ComputeInstance& compute : instance.compute_instances) {
          target.gpu_instance = instance.id;
          target.compute_instance = compute.id;
          if (driver.UuidOf(target) == uuid) {
            return Put(DeviceHandle(gpu, instance.id, compute.id), device);
          }
        }
      }
    }
    return kNotFound;
  });
}

SIM_EXPORT Return nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, Device* device) {
  return Call(__func__, [&](Driver& driver) {
    PciParts wanted;
    if (bus_id == nullptr || device == nullptr || !ParsePci(bus_id, wanted)) {
      return kInvalidArgument;
    }
    for (const SimGpu& gpu : driver.node().gpus) {
      PciParts parts;
      if (ParsePci(gpu.facts.pci_bus_id, parts) && parts.domain == wanted.domain &&
          parts.bus == wanted.bus && parts.device == wanted.device) {
        return Put(DeviceHandle(gpu.facts.index), device);
      }
    }
    return kNotFound;
  });
}

SIM_EXPORT Return nvmlDeviceGetHandleByPciBusId(const char* bus_id, Device* device) {
  return nvmlDeviceGetHandleByPciBusId_v2(bus_id, device);
}

SIM_EXPORT Return nvmlDeviceGetIndex(Device device, unsigned* index) {
  return CallOnGpu(__func__, device,
                   [&](Driver&, const Target& target) { return Put(target.gpu, index); });
}

SIM_EXPORT Return nvmlDeviceGetUUID(Device device, char* uuid, unsigned length) {
  return CallOn(__func__, device, [&](Driver& driver, const Target& target) {
    return PutText(driver.UuidOf(target), uuid, length);
  });
}

SIM_EXPORT Return nvmlDeviceGetName(Device device, char* name, unsigned length) {
  return CallOn(__func__, device, [&](Driver& driver, const Target& target) {
    return PutText(DeviceName(driver, target), name, length);
  });
}

SIM_EXPORT Return nvmlDeviceGetMinorNumber(Device device, unsigned* number) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    const auto& minor = driver.gpu(target).facts.minor_number;
    return minor ? Put(*minor, number) : kNotSupported;
  });
}

SIM_EXPORT Return nvmlDeviceGetPciInfo_v3(Device device, PciInfo* info) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    if (info == nullptr) return kInvalidArgument;
    const Gpu& facts = driver.gpu(target).facts;
    PciParts parts;
    if (!ParsePci(facts.pci_bus_id, parts)) return kUnknown;
    *info = {};
    info->domain = parts.domain;
    info->bus = parts.bus;
    info->device = parts.device;
    info->pci_device_id = facts.pci_device_id;
    info->pci_subsystem_id = facts.pci_subsystem_id;
    const std::string legacy =
        fmt::format("{:04X}:{:02X}:{:02X}.0", parts.domain & 0xFFFF, parts.bus, parts.device);
    if (const Return code = PutText(legacy, info->bus_id_legacy, sizeof info->bus_id_legacy);
        code != kSuccess) {
      return code;
    }
    return PutText(facts.pci_bus_id, info->bus_id, sizeof info->bus_id);
  });
}

SIM_EXPORT Return nvmlDeviceGetPciInfo_v2(Device device, PciInfo* info) {
  return nvmlDeviceGetPciInfo_v3(device, info);
}

SIM_EXPORT Return nvmlDeviceGetMemoryInfo(Device device, Memory* memory) {
  return CallOn(__func__, device, [&](Driver& driver, const Target& target) {
    if (memory == nullptr) return kInvalidArgument;
    const Bytes total = TotalMemory(driver, target);
    const Bytes used = std::min(total, ProcessMemory(target) + ReservedMemory(driver, target));
    memory->total = static_cast<unsigned long long>(total.count);
    memory->used = static_cast<unsigned long long>(used.count);
    memory->free = memory->total - memory->used;
    return kSuccess;
  });
}

SIM_EXPORT Return nvmlDeviceGetMemoryInfo_v2(Device device, MemoryV2* memory) {
  return CallOn(__func__, device, [&](Driver& driver, const Target& target) {
    if (memory == nullptr) return kInvalidArgument;
    if (memory->version != StructVersion<MemoryV2>(2)) return kArgumentVersionMismatch;
    const Bytes total = TotalMemory(driver, target);
    const Bytes reserved = ReservedMemory(driver, target);
    const Bytes used = std::min(total - reserved, ProcessMemory(target));
    memory->total = static_cast<unsigned long long>(total.count);
    memory->reserved = static_cast<unsigned long long>(reserved.count);
    memory->used = static_cast<unsigned long long>(used.count);
    memory->free = memory->total - memory->reserved - memory->used;
    return kSuccess;
  });
}

SIM_EXPORT Return nvmlDeviceGetCudaComputeCapability(Device device, int* major, int* minor) {
  return CallOn(__func__, device, [&](Driver& driver, const Target& target) {
    if (major == nullptr || minor == nullptr) return kInvalidArgument;
    *major = driver.gpu(target).facts.compute_capability_major;
    *minor = driver.gpu(target).facts.compute_capability_minor;
    return kSuccess;
  });
}

SIM_EXPORT Return nvmlDeviceGetArchitecture(Device device, unsigned* architecture) {
  return CallOn(__func__, device, [&](Driver& driver, const Target& target) {
    return Put(Architecture(driver.gpu(target).facts), architecture);
  });
}

SIM_EXPORT Return nvmlDeviceGetNumGpuCores(Device device, unsigned* cores) {
  return CallOn(__func__, device, [&](Driver& driver, const Target& target) {
    const Gpu& facts = driver.gpu(target).facts;
    const ReportedProfile* profile = ProfileOf(driver, target);
    const int sms = profile == nullptr ? facts.sm_count.value_or(0) : profile->sm_count;
    return sms == 0 ? kNotSupported : Put(sms * CoresPerSm(facts), cores);
  });
}

SIM_EXPORT Return nvmlDeviceGetComputeMode(Device device, unsigned* mode) {
  return CallOn(__func__, device, [&](Driver&, const Target& target) {
    return Put(target.gpu_state().compute_mode, mode);
  });
}

SIM_EXPORT Return nvmlDeviceSetComputeMode(Device device, unsigned mode) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    if (driver.unprivileged()) return kNoPermission;
    if (mode > kComputeModeExclusiveProcess) return kInvalidArgument;
    if (mode == kComputeModeExclusiveThread) return kNotSupported;
    return driver.Update([&](SimState& state) {
      state.gpus[static_cast<std::size_t>(target.gpu)].compute_mode = static_cast<int>(mode);
      return kSuccess;
    });
  });
}

SIM_EXPORT Return nvmlDeviceGetGpuFabricInfoV(Device device, GpuFabricInfoV2* info) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    if (info == nullptr) return kInvalidArgument;
    if (info->version != StructVersion<GpuFabricInfoV2>(2)) return kArgumentVersionMismatch;
    const auto& fabric = driver.gpu(target).facts.fabric;
    const unsigned version = info->version;
    *info = {};
    info->version = version;
    info->state = kFabricNotSupported;
    if (!fabric) return kSuccess;
    info->clique_id = static_cast<unsigned>(fabric->clique_id);
    info->state = kFabricCompleted;
    std::string digits = fabric->cluster_uuid;
    std::erase(digits, '-');
    for (std::size_t i = 0; i < sizeof info->cluster_uuid && 2 * i + 2 <= digits.size(); ++i) {
      const char* const pair = digits.data() + 2 * i;
      std::from_chars(pair, pair + 2, info->cluster_uuid[i], 16);
    }
    return kSuccess;
  });
}

SIM_EXPORT Return nvmlDeviceGetPersistenceMode(Device device, unsigned* mode) {
  return CallOnGpu(__func__, device,
                   [&](Driver&, const Target&) { return Put(kFeatureEnabled, mode); });
}

// Busy whenever somebody computes: the simulation has no kernels to look at.
SIM_EXPORT Return nvmlDeviceGetUtilizationRates(Device device, Utilization* utilisation) {
  return CallOn(__func__, device, [&](Driver&, const Target& target) {
    if (utilisation == nullptr) return kInvalidArgument;
    if (target.IsMigDevice() || target.gpu_state().mig) return kNotSupported;
    const bool busy = std::ranges::any_of(
        target.state->processes,
        [&](const ProcessState& process) { return process.gpu == target.gpu && IsAlive(process); });
    *utilisation = {.gpu = busy ? 100U : 0U, .memory = 0};
    return kSuccess;
  });
}

// A word of the set holds the nodes of its bits, as the kernel's node masks do.
SIM_EXPORT Return nvmlDeviceGetMemoryAffinity(Device device, unsigned words, unsigned long* nodes,
                                              unsigned) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    const auto& node = driver.gpu(target).facts.numa_node;
    if (nodes == nullptr || words == 0) return kInvalidArgument;
    if (!node || *node < 0) return kNotSupported;
    const unsigned word = static_cast<unsigned>(*node) / 64;
    if (word >= words) return kInsufficientSize;
    std::memset(nodes, 0, words * sizeof *nodes);
    nodes[word] = 1UL << (*node % 64);
    return kSuccess;
  });
}

SIM_EXPORT Return nvmlDeviceGetEccMode(Device device, unsigned* current, unsigned* pending) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    const auto& ecc = driver.gpu(target).facts.health.ecc;
    if (current == nullptr || pending == nullptr) return kInvalidArgument;
    if (!ecc) return kNotSupported;
    *current = *pending = *ecc ? kFeatureEnabled : kFeatureDisabled;
    return kSuccess;
  });
}

SIM_EXPORT Return nvmlDeviceGetTotalEccErrors(Device device, unsigned type, unsigned counter,
                                              unsigned long long* count) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    const GpuHealth& health = driver.gpu(target).facts.health;
    if (type > kErrorUncorrected || counter > 1) return kInvalidArgument;
    if (!health.ecc.value_or(false)) return kNotSupported;
    const auto& errors =
        type == kErrorCorrected ? health.ecc_errors_corrected : health.ecc_errors_uncorrected;
    const long long more = type == kErrorCorrected ? 0 : MemoryErrorsOf(driver, target);
    return Put(errors.value_or(0) + more, count);
  });
}

SIM_EXPORT Return nvmlDeviceGetRemappedRows(Device device, unsigned* corrected,
                                            unsigned* uncorrected, unsigned* pending,
                                            unsigned* failed) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    const Gpu& facts = driver.gpu(target).facts;
    if (corrected == nullptr || uncorrected == nullptr || pending == nullptr || failed == nullptr) {
      return kInvalidArgument;
    }
    if (facts.compute_capability_major < 8) return kNotSupported;  // Older GPUs retire pages.
    *corrected = 0;
    *uncorrected = static_cast<unsigned>(facts.health.rows_remapped.value_or(0));
    const bool now = target.gpu_state().remap_pending || HasOwnRemap(driver, target);
    *pending = facts.health.row_remap_pending.value_or(false) || now ? 1 : 0;
    *failed = facts.health.row_remap_failed.value_or(false) ? 1 : 0;
    return kSuccess;
  });
}

SIM_EXPORT Return nvmlDeviceGetAttributes_v2(Device device, DeviceAttributes* attributes) {
  return CallOn(__func__, device, [&](Driver& driver, const Target& target) {
    if (attributes == nullptr) return kInvalidArgument;
    const ReportedProfile* profile = ProfileOf(driver, target);
    if (profile == nullptr) return kNotSupported;  // Only of MIG devices.
    const sublet::ComputeInstance* compute =
        FindComputeInstance(*InstanceOf(target), target.compute_instance);
    if (compute == nullptr) return kNotFound;
    const bool whole = compute->placement.size == profile->compute_slices;
    *attributes = {};
    attributes->multiprocessor_count = static_cast<unsigned>(
        whole ? profile->sm_count : compute->placement.size * driver.gpu(target).slice_sm_count);
    attributes->shared_copy_engine_count = static_cast<unsigned>(profile->engines.copy);
    attributes->shared_decoder_count = static_cast<unsigned>(profile->engines.decoder);
    attributes->shared_encoder_count = static_cast<unsigned>(profile->engines.encoder);
    attributes->shared_jpeg_count = static_cast<unsigned>(profile->engines.jpeg);
    attributes->shared_ofa_count = static_cast<unsigned>(profile->engines.ofa);
    attributes->gpu_instance_slice_count = static_cast<unsigned>(profile->compute_slices);
    attributes->compute_instance_slice_count = static_cast<unsigned>(compute->placement.size);
    attributes->memory_size_mib = static_cast<unsigned long long>(profile->memory.mib());
    return kSuccess;
  });
}

}  // namespace sublet::sim
