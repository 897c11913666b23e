#include "inventory/nvml_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace sublet {
namespace nvml {

std::string_view ReturnName(Return code) {
  struct Row {
    Return code;
    std::string_view name;
  };
  constexpr std::array<Row, 32> kRows{{
      {kSuccess, "success"},
      {kUninitialized, "nvml is not initialised"},
      {kInvalidArgument, "invalid argument"},
      {kNotSupported, "not supported"},
      {kNoPermission, "no permission"},
      {kAlreadyInitialized, "already initialised"},
      {kNotFound, "not found"},
      {kInsufficientSize, "insufficient size"},
      {kInsufficientPower, "insufficient power"},
      {kDriverNotLoaded, "driver is not loaded"},
      {kTimeout, "timeout"},
      {kIrqIssue, "interrupt issue"},
      {kLibraryNotFound, "library not found"},
      {kFunctionNotFound, "function not found"},
      {kCorruptedInforom, "corrupted inforom"},
      {kGpuIsLost, "gpu is lost"},
      {kResetRequired, "gpu needs a reset"},
      {kOperatingSystem, "blocked by the operating system"},
      {kLibRmVersionMismatch, "driver and library versions differ"},
      {kInUse, "in use"},
      {kMemory, "insufficient memory"},
      {kNoData, "no data"},
      {kVgpuEccNotSupported, "vgpu not supported with ecc"},
      {kInsufficientResources, "insufficient resources"},
      {kFreqNotSupported, "frequency not supported"},
      {kArgumentVersionMismatch, "argument version mismatch"},
      {kDeprecated, "deprecated"},
      {kNotReady, "not ready"},
      {kGpuNotFound, "no gpu found"},
      {kInvalidState, "invalid state"},
      {kResetTypeNotSupported, "reset type not supported"},
      {kUnknown, "unknown error"},
  }};
  const auto row = std::ranges::find(kRows, code, &Row::code);
  return row == kRows.end() ? "unknown error" : row->name;
}

namespace {

struct Explanation {
  ErrorCode code;
  std::string_view hint;
};

Explanation Explain(Return code) {
  switch (code) {
    case kNoPermission:
      return {ErrorCode::kPermission, "run it as root, or with CAP_SYS_ADMIN"};
    case kNotSupported:
    case kFunctionNotFound:
    case kArgumentVersionMismatch:
    case kDeprecated:
      return {ErrorCode::kUnsupported, "the board or its driver can't do this"};
    case kNotFound:
    case kGpuNotFound:
      return {ErrorCode::kNotFound, ""};
    case kInUse:
      return {ErrorCode::kConflict, "stop the processes that use the GPU first"};
    case kInsufficientResources:
      return {ErrorCode::kConflict, "other instances take the place"};
    case kInvalidArgument:
    case kInvalidState:
      return {ErrorCode::kConflict, ""};
    case kDriverNotLoaded:
      return {ErrorCode::kUnavailable, "load the NVIDIA kernel module: modprobe nvidia"};
    case kLibRmVersionMismatch:
      return {
          ErrorCode::kUnavailable,
          "the driver was updated while its old kernel module was loaded: reboot, or reload it"};
    case kOperatingSystem:
      return {ErrorCode::kPermission,
              "the process may not open /dev/nvidiactl: check the container's device list"};
    case kGpuIsLost:
      return {ErrorCode::kUnavailable,
              "the GPU has fallen off the bus: see the kernel's log, reset it or reboot"};
    case kResetRequired:
      return {ErrorCode::kUnavailable, "reset the GPU: nvidia-smi --gpu-reset -i INDEX"};
    default:
      return {ErrorCode::kUnavailable, ""};
  }
}

}  // namespace
}  // namespace nvml

Status FromNvml(nvml::Return code, std::string_view what) {
  if (code == nvml::kSuccess) return {};
  const nvml::Explanation explanation = nvml::Explain(code);
  return Fail(explanation.code,
              fmt::format("{}: {} (nvml {})", what, nvml::ReturnName(code), static_cast<int>(code)),
              std::string(explanation.hint));
}

Result<nvml::Device> FindDevice(const nvml::Api& api, const std::string& uuid) {
  unsigned count = 0;
  RETURN_IF_ERROR(FromNvml(api.device_count(&count), "counting GPUs"));
  for (unsigned i = 0; i < count; ++i) {
    nvml::Device device = nullptr;
    std::array<char, nvml::kUuidBufferSize> text{};
    if (api.device_by_index(i, &device) != nvml::kSuccess) continue;
    if (api.device_uuid(device, text.data(), text.size()) != nvml::kSuccess) continue;
    if (uuid == text.data()) return device;
  }
  return Fail(ErrorCode::kNotFound, fmt::format("no such GPU: {}", uuid),
              "sublet inspect lists the GPUs of this node");
}

std::string FindNvml(std::string_view flag, const Environment& environment,
                     std::string_view program_folder) {
  if (!flag.empty()) return std::string(flag);
  if (const auto path = environment("SUBLET_NVML")) return *path;
  if (environment("SUBLET_SIM")) {
    return fmt::format("{}/../lib/sublet-sim/libnvidia-ml.so.1", program_folder);
  }
  return "libnvidia-ml.so.1";
}

Result<NvmlLibrary> NvmlLibrary::Open(const std::string& path) {
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return Fail(ErrorCode::kUnavailable, fmt::format("can't load nvml: {}", ::dlerror()),
                "install the NVIDIA driver, name its library with --nvml, or try a simulated node: "
                "SUBLET_SIM=h100-80gb:8");
  }
  NvmlLibrary library(handle);
  RETURN_IF_ERROR(library.Load(path));
  RETURN_IF_ERROR(FromNvml(library.api_.init(), fmt::format("starting nvml ({})", path)));
  library.initialised_ = true;
  return library;
}

Status NvmlLibrary::Load(const std::string& path) {
#define SUBLET_NVML_LOAD(member, name, parameters) \
  api_.member = reinterpret_cast<nvml::Return(*) parameters>(::dlsym(handle_, name));
#define SUBLET_NVML_DEMAND(member, name, parameters)                                       \
  SUBLET_NVML_LOAD(member, name, parameters)                                               \
  if (api_.member == nullptr) {                                                            \
    return Fail(ErrorCode::kUnsupported, fmt::format("{} does not export {}", path, name), \
                "the library is too old, or it isn't NVIDIA's management library");        \
  }
  using namespace nvml;  // The parameter lists are written in its names.
  SUBLET_NVML_REQUIRED(SUBLET_NVML_DEMAND)
  SUBLET_NVML_OPTIONAL(SUBLET_NVML_LOAD)
#undef SUBLET_NVML_LOAD
#undef SUBLET_NVML_DEMAND
  return {};
}

NvmlLibrary::NvmlLibrary(NvmlLibrary&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)),
      initialised_(std::exchange(other.initialised_, false)),
      api_(other.api_) {}

NvmlLibrary& NvmlLibrary::operator=(NvmlLibrary&& other) noexcept {
  if (this != &other) {
    Close();
    handle_ = std::exchange(other.handle_, nullptr);
    initialised_ = std::exchange(other.initialised_, false);
    api_ = other.api_;
  }
  return *this;
}

NvmlLibrary::~NvmlLibrary() {
  Close();
}

void NvmlLibrary::Close() {
  if (initialised_) static_cast<void>(api_.shutdown());
  if (handle_ != nullptr) ::dlclose(handle_);
  initialised_ = false;
  handle_ = nullptr;
}

bool NvmlLibrary::Exports(const char* name) const {
  return ::dlsym(handle_, name) != nullptr;
}

}  // namespace sublet
