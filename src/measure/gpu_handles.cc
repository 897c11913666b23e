#include "measure/gpu_handles.h"

#include <fmt/format.h>

namespace sublet {

Result<GpuBuffer> MakeGpuBuffer(const CudaLibrary& cuda, Bytes bytes) {
  cuda::DevicePointer pointer = 0;
  RETURN_IF_ERROR(
      cuda.Check(cuda.api().memory_alloc(&pointer, static_cast<std::size_t>(bytes.count)),
                 fmt::format("allocating {} MiB on the gpu", bytes.mib_rounded_up())));
  return GpuBuffer(pointer, cuda.api().memory_free);
}

Result<PinnedBuffer> MakePinnedBuffer(const CudaLibrary& cuda, Bytes bytes) {
  void* pointer = nullptr;
  RETURN_IF_ERROR(
      cuda.Check(cuda.api().host_alloc(&pointer, static_cast<std::size_t>(bytes.count), 0),
                 fmt::format("allocating {} MiB of pinned memory", bytes.mib_rounded_up())));
  return PinnedBuffer(pointer, cuda.api().host_free);
}

Result<GpuStream> MakeGpuStream(const CudaLibrary& cuda) {
  cuda::Stream stream = nullptr;
  RETURN_IF_ERROR(
      cuda.Check(cuda.api().stream_create(&stream, cuda::kStreamNonBlocking), "making a stream"));
  return GpuStream(stream, cuda.api().stream_destroy);
}

Result<GpuModule> LoadGpuModule(const CudaLibrary& cuda, std::string_view ptx) {
  // The driver looks for the text's end.
  const std::string text(ptx);
  cuda::Module module = nullptr;
  RETURN_IF_ERROR(
      cuda.Check(cuda.api().module_load(&module, text.c_str()), "compiling the lab's kernels"));
  return GpuModule(module, cuda.api().module_unload);
}

Result<cuda::Function> FindKernel(const CudaLibrary& cuda, const GpuModule& module,
                                  const char* name) {
  cuda::Function function = nullptr;
  RETURN_IF_ERROR(cuda.Check(cuda.api().module_function(&function, module.get(), name),
                             fmt::format("finding the kernel {}", name)));
  return function;
}

}  // namespace sublet
