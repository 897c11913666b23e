// libcuda.so.1: starting, errors, devices, contexts, and the clock of sublet_sim_cuda.h.
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "cuda_driver.h"
#include "sublet_sim_cuda.h"

namespace sublet::sim {

using cuda::Context;
using cuda::Return;
using CudaDevice = cuda::Device;

namespace {

struct ErrorText {
  int code;
  const char* name;
  const char* text;
};

constexpr ErrorText kErrors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {805, "CUDA_ERROR_MPS_CONNECTION_FAILED",
     "MPS client failed to connect to the MPS control daemon or the MPS server"},
    {806, "CUDA_ERROR_MPS_RPC_FAILURE",
     "the remote procedural call between the MPS server and the "
     "MPS client failed"},
    {807, "CUDA_ERROR_MPS_SERVER_NOT_READY",
     "MPS server is not ready to accept new MPS client requests"},
    {808, "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED",
     "the hardware resources required to create MPS client have been exhausted"},
    {809, "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED",
     "the hardware resources required to support device connections have been exhausted"},
    {810, "CUDA_ERROR_MPS_CLIENT_TERMINATED", "the MPS client has been terminated by the server"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
     "a graph is being ended on a stream that does not capture"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

Return TextOf(int code, const char** out, const char* ErrorText::*member) {
  if (out == nullptr) return cuda::kInvalidValue;
  *out = nullptr;
  for (const ErrorText& error : kErrors) {
    if (error.code == code) *out = error.*member;
  }
  return *out == nullptr ? cuda::kInvalidValue : cuda::kSuccess;
}

template <typename Body>
Return OnDevice(const char* function, CudaDevice device, const Body& body) {
  return CudaCall(function, [&](CudaDriver& driver) {
    if (device < 0 || device >= static_cast<int>(driver.devices().size())) {
      return cuda::kInvalidDevice;
    }
    return body(driver, driver.devices()[static_cast<std::size_t>(device)]);
  });
}

template <typename T, typename Value>
Return Give(Value value, T* out) {
  if (out == nullptr) return cuda::kInvalidValue;
  *out = static_cast<T>(value);
  return cuda::kSuccess;
}

// "GPU-1a2b..." as 16 bytes.
Return UuidBytes(std::string_view text, cuda::Uuid* out) {
  if (out == nullptr) return cuda::kInvalidValue;
  *out = {};
  const auto digit = [](char c) { return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10; };
  text.remove_prefix(std::min(text.find('-') + 1, text.size()));
  std::size_t at = 0;
  for (const char c : text) {
    if (c == '-' || at >= 32) continue;
    out->bytes[at / 2] = static_cast<char>(out->bytes[at / 2] << 4 | digit(c));
    ++at;
  }
  return cuda::kSuccess;
}

// Under an SM cap, the SMs that are left to this process, once it has a context.
int SmCount(CudaDriver& driver, const SimDevice& device) {
  const SimContext* const context = driver.FindContext(CurrentContext());
  const bool on_it =
      context != nullptr && &driver.devices()[static_cast<std::size_t>(context->device)] == &device;
  return on_it ? static_cast<int>(context->sm_cap) : device.sm_count;
}

Return Attribute(CudaDriver& driver, const SimDevice& device, int attribute, int* out) {
  const Gpu& facts = driver.node_driver().gpu(device.target).facts;
  constexpr int kCyclesKhz = 1'980'000;
  switch (attribute) {
    case 1:  // Threads of a block, then of its sides.
    case 2:
    case 3:
      return Give(1024, out);
    case 4:
      return Give(64, out);
    case 5:  // Sides of a grid.
      return Give(0x7FFFFFFF, out);
    case 6:
    case 7:
      return Give(65535, out);
    case 8:
      return Give(48 << 10, out);  // Shared memory of a block without asking.
    case 10:
      return Give(32, out);  // Threads of a warp.
    case 13:
      return Give(kCyclesKhz, out);
    case cuda::kMultiprocessorCount:
      return Give(SmCount(driver, device), out);
    case 31:  // Kernels run side by side.
    case 41:  // One address space with the host.
      return Give(1, out);
    case 20:
      return Give(driver.node_driver().State().value()->gpus[device.target.gpu].compute_mode, out);
    case 39:
      return Give(2048, out);  // Threads of an SM.
    case 40:
      return Give(2, out);  // Copy engines that a process can keep busy.
    case cuda::kComputeCapabilityMajor:
      return Give(facts.compute_capability_major, out);
    case cuda::kComputeCapabilityMinor:
      return Give(facts.compute_capability_minor, out);
    case cuda::kMpsEnabled:
      return Give(driver.IsMpsClient() ? 1 : 0, out);
    case 97:
      return Give(227 << 10, out);  // Shared memory of a block that asks.
    default:
      // What the simulation has no word for is absent, which for an attribute is zero.
      return attribute > 0 && attribute < 200 ? Give(0, out) : cuda::kInvalidValue;
  }
}

Return NewContext(const char* function, Context* out, unsigned flags, CudaDevice device) {
  return CudaCall(function, [&](CudaDriver& driver) {
    if (out == nullptr) return cuda::kInvalidValue;
    SimContext* context = nullptr;
    const Return code = driver.MakeContext(device, flags, &context);
    if (code != cuda::kSuccess) return code;
    CurrentContext() = context;
    *out = reinterpret_cast<Context>(context);
    return cuda::kSuccess;
  });
}

}  // namespace

// ---- starting and errors ------------------------------------------------------------------------

SIM_EXPORT Return cuInit(unsigned flags) {
  return flags == 0 ? InitialiseCuda() : cuda::kInvalidValue;
}

SIM_EXPORT Return cuDriverGetVersion(int* version) {
  return CudaCall(__func__, [&](CudaDriver& driver) {
    return Give(driver.node_driver().node().cuda_version, version);
  });
}

SIM_EXPORT Return cuGetErrorName(int code, const char** name) {
  return TextOf(code, name, &ErrorText::name);
}

SIM_EXPORT Return cuGetErrorString(int code, const char** text) {
  return TextOf(code, text, &ErrorText::text);
}

// The function that a program built against `version` of the header means by `symbol`: the newest
// of its name, but for those whose parameters have changed since.
SIM_EXPORT Return cuGetProcAddress_v2(const char* symbol, void** function, int version,
                                      unsigned long long, int* status) {
  if (symbol == nullptr || function == nullptr) return cuda::kInvalidValue;
  Dl_info self{};
  void* const address = reinterpret_cast<void*>(&cuInit);
  void* const library =
      ::dladdr(address, &self) != 0 ? ::dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD) : nullptr;
  if (library == nullptr) return cuda::kUnknown;
  std::vector<std::string> names;
  const std::string_view base = symbol;
  if (base == "cuCtxCreate" && version >= 13000) names = {"cuCtxCreate_v4"};
  if (base == "cuGetProcAddress" && version < 12000) names = {"cuGetProcAddress"};
  if (names.empty()) names = {fmt::format("{}_v2", base), std::string(base)};
  *function = nullptr;
  for (const std::string& name : names) {
    if (*function == nullptr) *function = ::dlsym(library, name.c_str());
  }
  ::dlclose(library);
  constexpr int kFound = 0;
  constexpr int kAbsent = 1;
  if (status != nullptr) *status = *function == nullptr ? kAbsent : kFound;
  return *function == nullptr ? cuda::kNotFound : cuda::kSuccess;
}

SIM_EXPORT Return cuGetProcAddress(const char* symbol, void** function, int version,
                                   unsigned long long flags) {
  return cuGetProcAddress_v2(symbol, function, version, flags, nullptr);
}

// ---- devices ------------------------------------------------------------------------------------

SIM_EXPORT Return cuDeviceGetCount(int* count) {
  return CudaCall(__func__,
                  [&](CudaDriver& driver) { return Give(driver.devices().size(), count); });
}

SIM_EXPORT Return cuDeviceGet(CudaDevice* device, int number) {
  return OnDevice(__func__, number,
                  [&](CudaDriver&, const SimDevice&) { return Give(number, device); });
}

SIM_EXPORT Return cuDeviceGetName(char* name, int length, CudaDevice device) {
  return OnDevice(__func__, device, [&](CudaDriver&, const SimDevice& on) {
    if (name == nullptr || length < 1) return cuda::kInvalidValue;
    const std::size_t count = on.name.copy(name, static_cast<std::size_t>(length) - 1);
    name[count] = '\0';
    return cuda::kSuccess;
  });
}

SIM_EXPORT Return cuDeviceGetUuid_v2(cuda::Uuid* uuid, CudaDevice device) {
  return OnDevice(__func__, device,
                  [&](CudaDriver&, const SimDevice& on) { return UuidBytes(on.uuid, uuid); });
}

SIM_EXPORT Return cuDeviceGetUuid(cuda::Uuid* uuid, CudaDevice device) {
  return cuDeviceGetUuid_v2(uuid, device);
}

SIM_EXPORT Return cuDeviceGetAttribute(int* value, int attribute, CudaDevice device) {
  return OnDevice(__func__, device, [&](CudaDriver& driver, const SimDevice& on) {
    return Attribute(driver, on, attribute, value);
  });
}

SIM_EXPORT Return cuDeviceTotalMem_v2(std::size_t* bytes, CudaDevice device) {
  return OnDevice(__func__, device,
                  [&](CudaDriver&, const SimDevice& on) { return Give(on.memory.count, bytes); });
}

// ---- contexts -----------------------------------------------------------------------------------

SIM_EXPORT Return cuDevicePrimaryCtxSetFlags_v2(CudaDevice device, unsigned flags) {
  return CudaCall(__func__,
                  [&](CudaDriver& driver) { return driver.SetPrimaryFlags(device, flags); });
}

SIM_EXPORT Return cuDevicePrimaryCtxRetain(Context* out, CudaDevice device) {
  return CudaCall(__func__, [&](CudaDriver& driver) {
    if (out == nullptr) return cuda::kInvalidValue;
    SimContext* context = nullptr;
    const Return code = driver.RetainPrimary(device, &context);
    if (code == cuda::kSuccess) *out = reinterpret_cast<Context>(context);
    return code;
  });
}

SIM_EXPORT Return cuDevicePrimaryCtxRelease_v2(CudaDevice device) {
  return CudaCall(__func__, [&](CudaDriver& driver) { return driver.ReleasePrimary(device); });
}

SIM_EXPORT Return cuCtxCreate_v2(Context* out, unsigned flags, CudaDevice device) {
  return NewContext(__func__, out, flags, device);
}

// `parameters` asks for SM affinities or a captured graph's context, of which there is nothing.
SIM_EXPORT Return cuCtxCreate_v4(Context* out, void* parameters, unsigned flags,
                                 CudaDevice device) {
  if (parameters != nullptr) return cuda::kNotSupported;
  return NewContext(__func__, out, flags, device);
}

SIM_EXPORT Return cuCtxDestroy_v2(Context handle) {
  return CudaCall(__func__, [&](CudaDriver& driver) {
    SimContext* const context = driver.FindContext(handle);
    if (context == nullptr || context->primary) return cuda::kInvalidContext;
    if (CurrentContext() == context) CurrentContext() = nullptr;
    return driver.EndContext(*context);
  });
}

SIM_EXPORT Return cuCtxSetCurrent(Context handle) {
  return CudaCall(__func__, [&](CudaDriver& driver) {
    SimContext* const context = driver.FindContext(handle);
    if (context == nullptr && handle != nullptr) return cuda::kInvalidContext;
    CurrentContext() = context;
    return cuda::kSuccess;
  });
}

SIM_EXPORT Return cuCtxGetCurrent(Context* handle) {
  return CudaCall(__func__, [&](CudaDriver& driver) {
    if (handle == nullptr) return cuda::kInvalidValue;
    *handle = reinterpret_cast<Context>(driver.FindContext(CurrentContext()));
    return cuda::kSuccess;
  });
}

SIM_EXPORT Return cuCtxGetDevice(CudaDevice* device) {
  return CallInContext(
      __func__, [&](CudaDriver&, SimContext& context) { return Give(context.device, device); });
}

SIM_EXPORT Return cuCtxSynchronize() {
  return CallInContext(
      __func__,
      [&](CudaDriver& driver, SimContext& context) { return driver.WaitForContext(context); },
      true);
}

// ---- the clock ----------------------------------------------------------------------------------

namespace {

// The process's entry, which from now on keeps time; nullptr before cuInit.
template <typename Body>
void KeepTime(const Body& body) {
  CudaDriver* const driver = TheCudaDriver();
  if (driver == nullptr) return;
  CardProcess* process = nullptr;
  {
    const std::lock_guard lock(driver->mutex);
    process = driver->Process();
  }
  if (process == nullptr) return;
  const CardHost::Locked lock(driver->host());
  if (!process->keeps_time) driver->host().Follow(*process);
  process->keeps_time = true;
  body(driver->host(), *process);
}

}  // namespace

SIM_EXPORT unsigned long long subletSimNow() {
  std::int64_t now = 0;
  KeepTime([&](CardHost& host, CardProcess& process) {
    if (!process.holds) host.Advance();
    now = host.NowOf(process);
  });
  return static_cast<unsigned long long>(now);
}

SIM_EXPORT void subletSimHold() {
  KeepTime([](CardHost& host, CardProcess& process) {
    if (process.holds) return;
    process.local_ns = host.NowOf(process);
    process.holds = true;
  });
}

SIM_EXPORT void subletSimLetGo() {
  KeepTime([](CardHost& host, CardProcess& process) {
    process.holds = process.held = false;
    std::int64_t& idle = host.table().idle_ns;
    idle = std::max(idle, process.local_ns);
    host.Advance();
  });
}

}  // namespace sublet::sim
