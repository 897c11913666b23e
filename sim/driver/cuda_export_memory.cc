// libcuda.so.1: device memory, host memory and copies.
#include <cstdlib>

#include "cuda_driver.h"

namespace sublet::sim {

using cuda::DevicePointer;
using cuda::Return;
using cuda::Stream;

namespace {

Return Move(CudaDriver& driver, SimContext& context, const void* stream_handle,
            const MemoryChange& change) {
  SimStream* const stream = driver.FindStream(context, stream_handle);
  if (stream == nullptr) return cuda::kInvalidHandle;
  if (change.bytes == 0) return cuda::kSuccess;
  const bool fill = change.way == MemoryChange::Way::kFill;
  if (!driver.IsAllocated(change.device, change.bytes) || (change.host == nullptr && !fill)) {
    return cuda::kInvalidValue;
  }
  CardItem item = CudaDriver::CopyItem(change.bytes, change.way == MemoryChange::Way::kIn);
  if (fill) {
    item.kind = ItemKind::kKernel;
    item.work.full_ns = 2'000 + item.work.bytes / ReachableBandwidth(context.facts);
    item.work.sm_ns = 0;
  }
  return driver.Put(context, *stream, item, kLaunchNs, &change);
}

Return MoveAndWait(const char* function, const MemoryChange& change) {
  return CallInContext(function, [&](CudaDriver& driver, SimContext& context) {
    const Return code = Move(driver, context, nullptr, change);
    if (code != cuda::kSuccess) return code;
    SimStream* const stream = driver.FindStream(context, nullptr);
    return driver.WaitForStream(context, *stream);
  });
}

MemoryChange In(DevicePointer to, const void* from, std::size_t bytes) {
  return {.device = to, .host = const_cast<void*>(from), .bytes = bytes};
}

MemoryChange Out(void* to, DevicePointer from, std::size_t bytes) {
  return {.device = from, .host = to, .bytes = bytes, .way = MemoryChange::Way::kOut};
}

}  // namespace

SIM_EXPORT Return cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext& context) {
    return driver.MemoryInfo(context, free, total);
  });
}

SIM_EXPORT Return cuMemAlloc_v2(DevicePointer* pointer, std::size_t bytes) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext& context) {
    return driver.Allocate(context, bytes, pointer);
  });
}

// Waits for all that runs, as the real one does.
SIM_EXPORT Return cuMemFree_v2(DevicePointer pointer) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext& context) {
    if (pointer != 0 && !driver.IsAllocated(pointer, 1)) return cuda::kInvalidValue;
    const Return code = driver.WaitForContext(context);
    return code == cuda::kSuccess ? driver.Free(pointer) : code;
  });
}

SIM_EXPORT Return cuMemHostAlloc(void** pointer, std::size_t bytes, unsigned) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext&) {
    if (pointer == nullptr || bytes == 0) return cuda::kInvalidValue;
    constexpr std::size_t kPage = 4096;
    constexpr std::size_t kMost = std::size_t{1} << 46;
    if (bytes > kMost) return cuda::kOutOfMemory;
    void* const memory = std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
    if (memory == nullptr) return cuda::kOutOfMemory;
    driver.pinned[memory] = bytes;
    *pointer = memory;
    return cuda::kSuccess;
  });
}

SIM_EXPORT Return cuMemAllocHost_v2(void** pointer, std::size_t bytes) {
  return cuMemHostAlloc(pointer, bytes, 0);
}

SIM_EXPORT Return cuMemFreeHost(void* pointer) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext&) {
    if (driver.pinned.erase(pointer) == 0) return cuda::kInvalidValue;
    std::free(pointer);
    return cuda::kSuccess;
  });
}

// Copies from memory that isn't registered are as fast here: nothing depends on it but time.
SIM_EXPORT Return cuMemHostRegister_v2(void* pointer, std::size_t bytes, unsigned) {
  return CallInContext(__func__, [&](CudaDriver&, SimContext&) {
    return pointer == nullptr || bytes == 0 ? cuda::kInvalidValue : cuda::kSuccess;
  });
}

SIM_EXPORT Return cuMemHostRegister(void* pointer, std::size_t bytes, unsigned flags) {
  return cuMemHostRegister_v2(pointer, bytes, flags);
}

SIM_EXPORT Return cuMemHostUnregister(void* pointer) {
  return CallInContext(__func__, [&](CudaDriver&, SimContext&) {
    return pointer == nullptr ? cuda::kInvalidValue : cuda::kSuccess;
  });
}

SIM_EXPORT Return cuMemsetD32Async(DevicePointer pointer, unsigned value, std::size_t count,
                                   Stream stream) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext& context) {
    return Move(
        driver, context, stream,
        {.device = pointer, .bytes = count * 4, .way = MemoryChange::Way::kFill, .value = value});
  });
}

SIM_EXPORT Return cuMemcpyHtoDAsync_v2(DevicePointer to, const void* from, std::size_t bytes,
                                       Stream stream) {
  return CallInContext(
      __func__,
      [&](CudaDriver& driver, SimContext& context) {
        return Move(driver, context, stream, In(to, from, bytes));
      },
      true);
}

SIM_EXPORT Return cuMemcpyDtoHAsync_v2(void* to, DevicePointer from, std::size_t bytes,
                                       Stream stream) {
  return CallInContext(
      __func__,
      [&](CudaDriver& driver, SimContext& context) {
        return Move(driver, context, stream, Out(to, from, bytes));
      },
      true);
}

SIM_EXPORT Return cuMemcpyHtoD_v2(DevicePointer to, const void* from, std::size_t bytes) {
  return MoveAndWait(__func__, In(to, from, bytes));
}

SIM_EXPORT Return cuMemcpyDtoH_v2(void* to, DevicePointer from, std::size_t bytes) {
  return MoveAndWait(__func__, Out(to, from, bytes));
}

}  // namespace sublet::sim
