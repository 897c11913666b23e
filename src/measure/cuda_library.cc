#include "measure/cuda_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <utility>

namespace sublet {
namespace {

struct Explanation {
  ErrorCode code;
  std::string_view hint;
};

Explanation Explain(cuda::Return code) {
  switch (code) {
    case cuda::kOutOfMemory:
      return {ErrorCode::kUnavailable, "other processes hold the GPU's memory, or a limit is set"};
    case cuda::kNoDevice:
    case cuda::kInvalidDevice:
      return {ErrorCode::kUnavailable,
              "no GPU is visible: check CUDA_VISIBLE_DEVICES and the container's device list"};
    case cuda::kInvalidImage:
    case cuda::kNoBinaryForGpu:
    case cuda::kInvalidPtx:
    case cuda::kUnsupportedPtxVersion:
      return {ErrorCode::kUnsupported, "the GPU or its driver is too old for the lab's kernels"};
    case cuda::kNotSupported:
      return {ErrorCode::kUnsupported, ""};
    case cuda::kNotPermitted:
      return {ErrorCode::kPermission, ""};
    case cuda::kSystemNotReady:
      return {ErrorCode::kUnavailable, "on NVSwitch systems: start nvidia-fabricmanager"};
    case cuda::kMpsConnectionFailed:
    case cuda::kMpsRpcFailure:
    case cuda::kMpsServerNotReady:
      return {ErrorCode::kUnavailable, "see control.log and server.log of the MPS control daemon"};
    case cuda::kMpsMaxClientsReached:
    case cuda::kMpsMaxConnectionsReached:
      return {ErrorCode::kUnavailable, "the MPS server serves no more clients"};
    default:
      return {ErrorCode::kUnavailable, ""};
  }
}

}  // namespace

std::string FindCuda(std::string_view flag, const Environment& environment,
                     std::string_view program_folder) {
  if (!flag.empty()) return std::string(flag);
  if (const auto path = environment("SUBLET_CUDA")) return *path;
  if (environment("SUBLET_SIM")) {
    return fmt::format("{}/../lib/sublet-sim/libcuda.so.1", program_folder);
  }
  return "libcuda.so.1";
}

Result<CudaLibrary> CudaLibrary::Open(const std::string& path) {
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return Fail(ErrorCode::kUnavailable, fmt::format("can't load the cuda driver: {}", ::dlerror()),
                "install the NVIDIA driver, or try a simulated GPU: --sim h200");
  }
  CudaLibrary library(handle);
  RETURN_IF_ERROR(library.Load(path));
  RETURN_IF_ERROR(library.Check(library.api_.init(0), fmt::format("starting cuda ({})", path)));
  return library;
}

Status CudaLibrary::Load(const std::string& path) {
#define SUBLET_CUDA_LOAD(member, name, parameters)                                         \
  api_.member = reinterpret_cast<cuda::Return(*) parameters>(::dlsym(handle_, name));      \
  if (api_.member == nullptr) {                                                            \
    return Fail(ErrorCode::kUnsupported, fmt::format("{} does not export {}", path, name), \
                "the driver is too old: CUDA 11.4 or newer is needed");                    \
  }
  using namespace cuda;  // The parameter lists are written in its names.
  SUBLET_CUDA_REQUIRED(SUBLET_CUDA_LOAD)
#undef SUBLET_CUDA_LOAD
  return {};
}

CudaLibrary::CudaLibrary(CudaLibrary&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)), api_(other.api_) {}

void* CudaLibrary::Find(const char* name) const {
  return ::dlsym(handle_, name);
}

std::string CudaLibrary::NameOf(cuda::Return code) const {
  const char* name = nullptr;
  if (api_.error_name(code, &name) != cuda::kSuccess || name == nullptr) {
    return fmt::format("CUDA error {}", static_cast<int>(code));
  }
  return name;
}

Status CudaLibrary::Check(cuda::Return code, std::string_view what) const {
  if (code == cuda::kSuccess) return {};
  const char* text = nullptr;
  if (api_.error_text(code, &text) != cuda::kSuccess || text == nullptr) text = "unknown error";
  const Explanation explanation = Explain(code);
  return Fail(explanation.code, fmt::format("{}: {} ({})", what, text, NameOf(code)),
              std::string(explanation.hint));
}

Result<CudaDevice> FirstDevice(const CudaLibrary& cuda) {
  const cuda::Api& api = cuda.api();
  CudaDevice device;
  cuda::Device number = 0;
  RETURN_IF_ERROR(cuda.Check(api.device(&number, 0), "finding the first gpu"));
  const auto read = [&](cuda::DeviceAttribute attribute, int& out) {
    return cuda.Check(api.device_attribute(&out, attribute, number), "asking the gpu");
  };
  RETURN_IF_ERROR(read(cuda::kMultiprocessorCount, device.sm_count));
  RETURN_IF_ERROR(read(cuda::kComputeCapabilityMajor, device.capability_major));
  RETURN_IF_ERROR(read(cuda::kComputeCapabilityMinor, device.capability_minor));
  std::size_t bytes = 0;
  RETURN_IF_ERROR(cuda.Check(api.device_memory(&bytes, number), "asking for the gpu's memory"));
  device.memory = Bytes{static_cast<std::int64_t>(bytes)};
  return device;
}

Result<CudaContext> CudaContext::Make(const CudaLibrary& cuda, const Options& options) {
  const cuda::Api& api = cuda.api();
  cuda::Device number = 0;
  RETURN_IF_ERROR(cuda.Check(api.device(&number, 0), "finding the first gpu"));
  const unsigned flags =
      options.blocking_wait ? cuda::kContextScheduleBlockingSync : cuda::kContextScheduleYield;
  RETURN_IF_ERROR(cuda.Check(api.context_flags(number, flags), "choosing how to wait"));
  cuda::Context context = nullptr;
  RETURN_IF_ERROR(cuda.Check(api.context_retain(&context, number), "making a context"));
  CudaContext made(cuda, number);
  RETURN_IF_ERROR(cuda.Check(api.context_set_current(context), "entering the context"));
  // After the context, because an SM cap shows only in it.
  ASSIGN_OR_RETURN(made.device_, FirstDevice(cuda));
  return made;
}

CudaContext::CudaContext(CudaContext&& other) noexcept
    : cuda_(std::exchange(other.cuda_, nullptr)), number_(other.number_), device_(other.device_) {}

CudaContext::~CudaContext() {
  if (cuda_ != nullptr) static_cast<void>(cuda_->api().context_release(number_));
}

}  // namespace sublet
