// Compares our declarations of the CUDA driver with the real header. CMake compiles this file only
// where cuda.h is installed: in the CUDA toolkit's include folder, or where CUDA_INCLUDE_DIR says.
#include <cuda.h>
#include <gtest/gtest.h>

#include <type_traits>

#include "measure/cuda_api.h"

namespace sublet {
namespace {

// Two types that travel alike in a call: both pointers, or numbers of the same size.
template <typename Ours, typename Theirs>
constexpr bool kTravelAlike = (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) ||
                              (!std::is_pointer_v<Ours> && !std::is_pointer_v<Theirs> &&
                               sizeof(Ours) == sizeof(Theirs));

template <typename Ours, typename Theirs>
struct Agree : std::false_type {};
template <typename... Ours, typename... Theirs>
requires(sizeof...(Ours) ==
         sizeof...(Theirs)) struct Agree<cuda::Return(Ours...), CUresult(Theirs...)>
    : std::bool_constant<(kTravelAlike<Ours, Theirs> && ...)> {
};

// The header turns some names into their versioned ones by macros; as text they stay as they are.
#define SUBLET_SAME_SIGNATURE(ours, theirs) \
  static_assert(Agree<cuda::Return ours, decltype(theirs)>::value, #theirs)

using namespace cuda;  // The parameter lists are written in its names.
SUBLET_SAME_SIGNATURE((unsigned), cuInit);
SUBLET_SAME_SIGNATURE((Device, unsigned), cuDevicePrimaryCtxSetFlags);
SUBLET_SAME_SIGNATURE((cuda::Context*, Device), cuDevicePrimaryCtxRetain);
SUBLET_SAME_SIGNATURE((Module*, const void*), cuModuleLoadData);
SUBLET_SAME_SIGNATURE((DevicePointer*, std::size_t), cuMemAlloc);
SUBLET_SAME_SIGNATURE((void**, std::size_t, unsigned), cuMemHostAlloc);
SUBLET_SAME_SIGNATURE((DevicePointer, unsigned, std::size_t, Stream), cuMemsetD32Async);
SUBLET_SAME_SIGNATURE((DevicePointer, const void*, std::size_t, Stream), cuMemcpyHtoDAsync);
SUBLET_SAME_SIGNATURE((void*, DevicePointer, std::size_t, Stream), cuMemcpyDtoHAsync);
SUBLET_SAME_SIGNATURE((Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                       unsigned, Stream, void**, void**),
                      cuLaunchKernel);
SUBLET_SAME_SIGNATURE((Stream, int), cuStreamBeginCapture);
SUBLET_SAME_SIGNATURE((Stream, Graph*), cuStreamEndCapture);
SUBLET_SAME_SIGNATURE((GraphExec*, Graph, unsigned long long), cuGraphInstantiateWithFlags);
SUBLET_SAME_SIGNATURE((GraphExec, Stream), cuGraphLaunch);
SUBLET_SAME_SIGNATURE((Function, int, int), cuFuncSetAttribute);
SUBLET_SAME_SIGNATURE((int*, int, Device), cuDeviceGetAttribute);

#define EXPECT_SAME_VALUE(ours, theirs) \
  EXPECT_EQ(static_cast<unsigned long long>(cuda::ours), static_cast<unsigned long long>(theirs))

TEST(CudaHeader, ResultsAgree) {
  EXPECT_SAME_VALUE(kSuccess, CUDA_SUCCESS);
  EXPECT_SAME_VALUE(kInvalidValue, CUDA_ERROR_INVALID_VALUE);
  EXPECT_SAME_VALUE(kOutOfMemory, CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_SAME_VALUE(kNotInitialized, CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_SAME_VALUE(kDeinitialized, CUDA_ERROR_DEINITIALIZED);
  EXPECT_SAME_VALUE(kNoDevice, CUDA_ERROR_NO_DEVICE);
  EXPECT_SAME_VALUE(kInvalidDevice, CUDA_ERROR_INVALID_DEVICE);
  EXPECT_SAME_VALUE(kInvalidImage, CUDA_ERROR_INVALID_IMAGE);
  EXPECT_SAME_VALUE(kInvalidContext, CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_SAME_VALUE(kNoBinaryForGpu, CUDA_ERROR_NO_BINARY_FOR_GPU);
  EXPECT_SAME_VALUE(kInvalidPtx, CUDA_ERROR_INVALID_PTX);
  EXPECT_SAME_VALUE(kUnsupportedPtxVersion, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
  EXPECT_SAME_VALUE(kInvalidHandle, CUDA_ERROR_INVALID_HANDLE);
  EXPECT_SAME_VALUE(kNotFound, CUDA_ERROR_NOT_FOUND);
  EXPECT_SAME_VALUE(kNotReady, CUDA_ERROR_NOT_READY);
  EXPECT_SAME_VALUE(kIllegalAddress, CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_SAME_VALUE(kLaunchFailed, CUDA_ERROR_LAUNCH_FAILED);
  EXPECT_SAME_VALUE(kNotPermitted, CUDA_ERROR_NOT_PERMITTED);
  EXPECT_SAME_VALUE(kNotSupported, CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_SAME_VALUE(kSystemNotReady, CUDA_ERROR_SYSTEM_NOT_READY);
  EXPECT_SAME_VALUE(kMpsConnectionFailed, CUDA_ERROR_MPS_CONNECTION_FAILED);
  EXPECT_SAME_VALUE(kMpsRpcFailure, CUDA_ERROR_MPS_RPC_FAILURE);
  EXPECT_SAME_VALUE(kMpsServerNotReady, CUDA_ERROR_MPS_SERVER_NOT_READY);
  EXPECT_SAME_VALUE(kMpsMaxClientsReached, CUDA_ERROR_MPS_MAX_CLIENTS_REACHED);
  EXPECT_SAME_VALUE(kMpsMaxConnectionsReached, CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED);
  EXPECT_SAME_VALUE(kMpsClientTerminated, CUDA_ERROR_MPS_CLIENT_TERMINATED);
  EXPECT_SAME_VALUE(kUnknown, CUDA_ERROR_UNKNOWN);
}

TEST(CudaHeader, ConstantsAndHandlesAgree) {
  EXPECT_SAME_VALUE(kMultiprocessorCount, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  EXPECT_SAME_VALUE(kComputeCapabilityMajor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  EXPECT_SAME_VALUE(kComputeCapabilityMinor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  EXPECT_SAME_VALUE(kMpsEnabled, CU_DEVICE_ATTRIBUTE_MPS_ENABLED);
  EXPECT_SAME_VALUE(kContextScheduleYield, CU_CTX_SCHED_YIELD);
  EXPECT_SAME_VALUE(kContextScheduleBlockingSync, CU_CTX_SCHED_BLOCKING_SYNC);
  EXPECT_SAME_VALUE(kStreamNonBlocking, CU_STREAM_NON_BLOCKING);
  EXPECT_SAME_VALUE(kEventDisableTiming, CU_EVENT_DISABLE_TIMING);
  EXPECT_SAME_VALUE(kCaptureThreadLocal, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  EXPECT_SAME_VALUE(kFunctionMaxDynamicSharedBytes,
                    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
  EXPECT_EQ(sizeof(cuda::Uuid), sizeof(CUuuid));
  EXPECT_EQ(sizeof(cuda::Device), sizeof(CUdevice));
  EXPECT_EQ(sizeof(cuda::DevicePointer), sizeof(CUdeviceptr));
}

}  // namespace
}  // namespace sublet
