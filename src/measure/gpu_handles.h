// measure/gpu_handles.h
//
// Owners of what the CUDA driver hands out: memory, modules, streams, graphs. Each frees what it
// has when it goes; in a context that a fault has broken the driver refuses, which is no loss,
// because the context's memory went with it.
//
//   ASSIGN_OR_RETURN(GpuBuffer buffer, MakeGpuBuffer(cuda, Bytes::FromMib(256)));
//
// Thread safety: one thread at a time.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "base/bytes.h"
#include "base/result.h"
#include "measure/cuda_library.h"

namespace sublet {

// A handle and the function that gives it back.
template <typename Handle>
class Owned {
 public:
  using Release = cuda::Return (*)(Handle);

  Owned() = default;
  Owned(Handle handle, Release release) : handle_(handle), release_(release) {}
  Owned(Owned&& other) noexcept
      : handle_(std::exchange(other.handle_, Handle{})),
        release_(std::exchange(other.release_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    if (this != &other) {
      Free();
      handle_ = std::exchange(other.handle_, Handle{});
      release_ = std::exchange(other.release_, nullptr);
    }
    return *this;
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() { Free(); }

  Handle get() const { return handle_; }

 private:
  void Free() {
    if (release_ != nullptr) static_cast<void>(release_(handle_));
    release_ = nullptr;
  }

  Handle handle_{};
  Release release_ = nullptr;
};

using GpuBuffer = Owned<cuda::DevicePointer>;
using PinnedBuffer = Owned<void*>;
using GpuModule = Owned<cuda::Module>;
using GpuStream = Owned<cuda::Stream>;
using GpuGraph = Owned<cuda::GraphExec>;

Result<GpuBuffer> MakeGpuBuffer(const CudaLibrary& cuda, Bytes bytes);
Result<PinnedBuffer> MakePinnedBuffer(const CudaLibrary& cuda, Bytes bytes);
Result<GpuStream> MakeGpuStream(const CudaLibrary& cuda);
// From PTX as text.
Result<GpuModule> LoadGpuModule(const CudaLibrary& cuda, std::string_view ptx);
Result<cuda::Function> FindKernel(const CudaLibrary& cuda, const GpuModule& module,
                                  const char* name);

}  // namespace sublet
