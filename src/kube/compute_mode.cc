#include "kube/compute_mode.h"

#include <fmt/format.h>

#include "inventory/nvml_library.h"

namespace sublet {
namespace {

Result<ComputeMode> Read(const nvml::Api& api, nvml::Device device, const std::string& gpu_uuid) {
  unsigned mode = 0;
  RETURN_IF_ERROR(FromNvml(api.device_compute_mode(device, &mode),
                           fmt::format("reading the compute mode of {}", gpu_uuid)));
  return static_cast<ComputeMode>(mode);  // Numbered as NVML does.
}

Status CheckModes(const nvml::Api& api) {
  if (api.device_compute_mode != nullptr && api.set_compute_mode != nullptr) return {};
  return Fail(ErrorCode::kUnsupported, "this driver has no compute modes");
}

}  // namespace

Result<ComputeMode> ReadComputeMode(const std::string& nvml_path, const std::string& gpu_uuid) {
  ASSIGN_OR_RETURN(const NvmlLibrary nvml, NvmlLibrary::Open(nvml_path));
  RETURN_IF_ERROR(CheckModes(nvml.api()));
  ASSIGN_OR_RETURN(const nvml::Device device, FindDevice(nvml.api(), gpu_uuid));
  return Read(nvml.api(), device, gpu_uuid);
}

Status SetComputeMode(const std::string& nvml_path, const std::string& gpu_uuid, ComputeMode mode) {
  ASSIGN_OR_RETURN(const NvmlLibrary nvml, NvmlLibrary::Open(nvml_path));
  const nvml::Api& api = nvml.api();
  RETURN_IF_ERROR(CheckModes(api));
  ASSIGN_OR_RETURN(const nvml::Device device, FindDevice(api, gpu_uuid));
  RETURN_IF_ERROR(FromNvml(
      api.set_compute_mode(device, static_cast<unsigned>(mode)),
      fmt::format("setting the compute mode of {} to {}", gpu_uuid, ComputeModeName(mode))));
  ASSIGN_OR_RETURN(const ComputeMode after, Read(api, device, gpu_uuid));
  if (after == mode) return {};
  return Fail(ErrorCode::kConflict,
              fmt::format("the compute mode of {} was set to {} and reads {}", gpu_uuid,
                          ComputeModeName(mode), ComputeModeName(after)));
}

}  // namespace sublet
