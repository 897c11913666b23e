// measure/cuda_api.h
//
// The part of the CUDA driver's binary interface that the lab speaks, declared by ourselves.
//
// The driver library, libcuda.so.1, comes with the driver; its header comes with the CUDA toolkit,
// which neither a user's node nor a build machine needs to have. So what is used is declared here:
// constants by their value, functions by their exported name and signature.
// tests/cuda_header_test.cc compares them with the real header where that is installed.
//
// measure/cuda_library.h loads the functions; sim/driver exports a look-alike of them.
#pragma once

#include <cstddef>

namespace sublet::cuda {

enum Return : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kDeinitialized = 4,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kNoBinaryForGpu = 209,
  kInvalidPtx = 218,
  kUnsupportedPtxVersion = 222,
  kInvalidHandle = 400,
  kNotFound = 500,
  kNotReady = 600,
  kIllegalAddress = 700,
  kLaunchFailed = 719,
  kNotPermitted = 800,
  kNotSupported = 801,
  kSystemNotReady = 802,
  kMpsConnectionFailed = 805,
  kMpsRpcFailure = 806,
  kMpsServerNotReady = 807,
  kMpsMaxClientsReached = 808,
  kMpsMaxConnectionsReached = 809,
  kMpsClientTerminated = 810,
  kUnknown = 999,
};

// Opaque to callers.
using Device = int;
using Context = struct ContextHandle*;
using Module = struct ModuleHandle*;
using Function = struct FunctionHandle*;
using Stream = struct StreamHandle*;
using Event = struct EventHandle*;
using Graph = struct GraphHandle*;
using GraphExec = struct GraphExecHandle*;
using DevicePointer = unsigned long long;

struct Uuid {
  char bytes[16];
};

// Of cuDeviceGetAttribute.
enum DeviceAttribute : int {
  kMultiprocessorCount = 16,
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
  kMpsEnabled = 133,  // Of this process: 0 in one that was to be a client and found no server.
};

inline constexpr unsigned kContextScheduleYield = 0x02;
inline constexpr unsigned kContextScheduleBlockingSync = 0x04;
inline constexpr unsigned kStreamNonBlocking = 0x1;
inline constexpr unsigned kEventDisableTiming = 0x2;
inline constexpr int kCaptureThreadLocal = 1;
inline constexpr int kFunctionMaxDynamicSharedBytes = 8;

// X(member, exported name, parameters). Without any of these the library is of no use.
// clang-format off
#define SUBLET_CUDA_REQUIRED(X)                                                                  \
  X(init, "cuInit", (unsigned))                                                                  \
  X(driver_version, "cuDriverGetVersion", (int*))                                                \
  X(error_name, "cuGetErrorName", (int, const char**))                                           \
  X(error_text, "cuGetErrorString", (int, const char**))                                         \
  X(device_count, "cuDeviceGetCount", (int*))                                                    \
  X(device, "cuDeviceGet", (Device*, int))                                                       \
  X(device_uuid, "cuDeviceGetUuid_v2", (Uuid*, Device))                                          \
  X(device_attribute, "cuDeviceGetAttribute", (int*, int, Device))                               \
  X(device_memory, "cuDeviceTotalMem_v2", (std::size_t*, Device))                                \
  X(context_flags, "cuDevicePrimaryCtxSetFlags_v2", (Device, unsigned))                          \
  X(context_retain, "cuDevicePrimaryCtxRetain", (Context*, Device))                              \
  X(context_release, "cuDevicePrimaryCtxRelease_v2", (Device))                                   \
  X(context_set_current, "cuCtxSetCurrent", (Context))                                           \
  X(context_synchronize, "cuCtxSynchronize", ())                                                 \
  X(module_load, "cuModuleLoadData", (Module*, const void*))                                     \
  X(module_unload, "cuModuleUnload", (Module))                                                   \
  X(module_function, "cuModuleGetFunction", (Function*, Module, const char*))                    \
  X(function_set_attribute, "cuFuncSetAttribute", (Function, int, int))                          \
  X(memory_info, "cuMemGetInfo_v2", (std::size_t*, std::size_t*))                                \
  X(memory_alloc, "cuMemAlloc_v2", (DevicePointer*, std::size_t))                                \
  X(memory_free, "cuMemFree_v2", (DevicePointer))                                                \
  X(host_alloc, "cuMemHostAlloc", (void**, std::size_t, unsigned))                               \
  X(host_free, "cuMemFreeHost", (void*))                                                         \
  X(fill, "cuMemsetD32Async", (DevicePointer, unsigned, std::size_t, Stream))                    \
  X(copy_to_device, "cuMemcpyHtoDAsync_v2", (DevicePointer, const void*, std::size_t, Stream))   \
  X(copy_from_device, "cuMemcpyDtoHAsync_v2", (void*, DevicePointer, std::size_t, Stream))       \
  X(stream_create, "cuStreamCreate", (Stream*, unsigned))                                        \
  X(stream_destroy, "cuStreamDestroy_v2", (Stream))                                              \
  X(stream_synchronize, "cuStreamSynchronize", (Stream))                                         \
  X(stream_query, "cuStreamQuery", (Stream))                                                     \
  X(launch, "cuLaunchKernel",                                                                    \
    (Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream,     \
     void**, void**))                                                                            \
  X(capture_begin, "cuStreamBeginCapture_v2", (Stream, int))                                     \
  X(capture_end, "cuStreamEndCapture", (Stream, Graph*))                                         \
  X(graph_instantiate, "cuGraphInstantiateWithFlags", (GraphExec*, Graph, unsigned long long))   \
  X(graph_launch, "cuGraphLaunch", (GraphExec, Stream))                                          \
  X(graph_exec_destroy, "cuGraphExecDestroy", (GraphExec))                                       \
  X(graph_destroy, "cuGraphDestroy", (Graph))
// clang-format on

}  // namespace sublet::cuda
