// A stand-in for the CUDA driver's library whose kernels take real time: 0.2 ms each, one after the
// other in a stream. It has 4 GiB, nobody shares it, and no clock of its own, so workers use the
// machine's, as they do on a real GPU.
//
// CUDA_VISIBLE_DEVICES says how it behaves: "none" has no GPU, "crash" and "hang" happen while the
// context is made, "fails" and "dies" at the 100th launch.
#include <time.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "measure/cuda_api.h"

namespace sublet::cuda {

struct StreamHandle {
  std::int64_t busy_until_ns;
};
struct FunctionHandle {
  bool pokes;
};

namespace {

constexpr std::int64_t kKernelNs = 200'000;
constexpr std::size_t kMemory = std::size_t{4} << 30;

std::size_t allocated = 0;
int launches = 0;
Return broken = kSuccess;
StreamHandle default_stream{};

bool Behaves(const char* word) {
  const char* device = std::getenv("CUDA_VISIBLE_DEVICES");
  return device != nullptr && std::strcmp(device, word) == 0;
}

std::int64_t Now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

extern "C" {

Return cuInit(unsigned) {
  return Behaves("none") ? kNoDevice : kSuccess;
}
Return cuDriverGetVersion(int* version) {
  *version = 12000;
  return kSuccess;
}
Return cuGetErrorName(int code, const char** name) {
  static std::string text;
  text = code == kOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_" + std::to_string(code);
  *name = text.c_str();
  return kSuccess;
}
Return cuGetErrorString(int, const char** text) {
  *text = "something went wrong";
  return kSuccess;
}
Return cuDeviceGetCount(int* count) {
  *count = 1;
  return kSuccess;
}
Return cuDeviceGet(Device* device, int) {
  *device = 0;
  return kSuccess;
}
Return cuDeviceGetUuid_v2(Uuid* uuid, Device) {
  *uuid = {};
  return kSuccess;
}
Return cuDeviceGetAttribute(int* value, int attribute, Device) {
  *value = attribute == kMultiprocessorCount ? 10 : 9;
  return kSuccess;
}
Return cuDeviceTotalMem_v2(std::size_t* bytes, Device) {
  *bytes = kMemory;
  return kSuccess;
}
Return cuDevicePrimaryCtxSetFlags_v2(Device, unsigned) {
  return kSuccess;
}
Return cuDevicePrimaryCtxRetain(Context* context, Device) {
  if (Behaves("hang")) {
    while (true) ::pause();
  }
  if (Behaves("crash")) {
    const char words[] = "a riser is loose\n";
    static_cast<void>(::write(STDERR_FILENO, words, sizeof words - 1) > 0);
    std::abort();
  }
  *context = nullptr;
  return kSuccess;
}
Return cuDevicePrimaryCtxRelease_v2(Device) {
  return kSuccess;
}
Return cuCtxSetCurrent(Context) {
  return kSuccess;
}
Return cuCtxSynchronize() {
  return broken;
}
Return cuModuleLoadData(Module*, const void*) {
  return kSuccess;
}
Return cuModuleUnload(Module) {
  return kSuccess;
}
Return cuModuleGetFunction(Function* function, Module, const char* name) {
  static FunctionHandle kernel{false};
  static FunctionHandle poke{true};
  *function = std::strcmp(name, "sublet_poke") == 0 ? &poke : &kernel;
  return kSuccess;
}
Return cuFuncSetAttribute(Function, int, int) {
  return kSuccess;
}
Return cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  *free = kMemory - allocated;
  *total = kMemory;
  return kSuccess;
}
// The pointer is the size, so that it can be given back.
Return cuMemAlloc_v2(DevicePointer* pointer, std::size_t bytes) {
  if (allocated + bytes > kMemory) return kOutOfMemory;
  allocated += bytes;
  *pointer = bytes;
  return kSuccess;
}
Return cuMemFree_v2(DevicePointer pointer) {
  allocated -= pointer;
  return kSuccess;
}
Return cuMemHostAlloc(void** pointer, std::size_t bytes, unsigned) {
  *pointer = std::malloc(bytes);
  return kSuccess;
}
Return cuMemFreeHost(void* pointer) {
  std::free(pointer);
  return kSuccess;
}
Return cuMemsetD32Async(DevicePointer, unsigned, std::size_t, Stream) {
  return kSuccess;
}
Return cuMemcpyHtoDAsync_v2(DevicePointer, const void*, std::size_t, Stream) {
  return kSuccess;
}
Return cuMemcpyDtoHAsync_v2(void*, DevicePointer, std::size_t, Stream) {
  return kSuccess;
}
Return cuStreamCreate(Stream* stream, unsigned) {
  *stream = new StreamHandle{};
  return kSuccess;
}
Return cuStreamDestroy_v2(Stream stream) {
  delete stream;
  return kSuccess;
}
Return cuStreamSynchronize(Stream stream) {
  const timespec until{stream->busy_until_ns / 1'000'000'000,
                       stream->busy_until_ns % 1'000'000'000};
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) != 0) {
  }
  return broken;
}
Return cuStreamQuery(Stream stream) {
  return Now() < stream->busy_until_ns ? kNotReady : broken;
}
Return cuLaunchKernel(Function function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                      unsigned, Stream stream, void**, void**) {
  if (function->pokes) broken = kIllegalAddress;
  if (++launches == 100 && Behaves("fails")) broken = kLaunchFailed;
  if (launches == 100 && Behaves("dies")) ::raise(SIGKILL);
  StreamHandle& at = stream == nullptr ? default_stream : *stream;
  const std::int64_t now = Now();
  at.busy_until_ns = (at.busy_until_ns > now ? at.busy_until_ns : now) + kKernelNs;
  return kSuccess;
}
Return cuStreamBeginCapture_v2(Stream, int) {
  return kNotSupported;
}
Return cuStreamEndCapture(Stream, Graph*) {
  return kNotSupported;
}
Return cuGraphInstantiateWithFlags(GraphExec*, Graph, unsigned long long) {
  return kNotSupported;
}
Return cuGraphLaunch(GraphExec, Stream) {
  return kNotSupported;
}
Return cuGraphExecDestroy(GraphExec) {
  return kSuccess;
}
Return cuGraphDestroy(Graph) {
  return kSuccess;
}

}  // extern "C"

}  // namespace sublet::cuda
