#include "measure/workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "embedded/measure_kernels.h"
#include "measure/gpu_handles.h"
#include "measure/transformer.h"

namespace sublet {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kSmallBlocks = 16;
constexpr unsigned kBigBlocksPerSm = 8;  // All that an SM holds at once of 256 threads each.
// A dependent multiply-add takes 4 cycles on every GPU since Volta: at 1.98 GHz 0.087 ms.
constexpr unsigned kSpinIterations = 43'008;

constexpr Bytes kStreamBytes = Bytes::FromMib(256);
constexpr Bytes kTransferBytes = Bytes::FromMib(16);
constexpr unsigned kTransferRounds = 2'000;  // About as long as copying one way.

constexpr int kGemmSize = 4096;
constexpr Bytes kGemmBytes = Bytes::FromMib(32);  // Of one matrix.
constexpr unsigned kGemmTile = 128;
constexpr unsigned kGemmSharedBytes = 96 << 10;  // Three stages of two 128 x 64 slices.

// The part that is the same for all: a module, streams, and waiting.
class OnStreams : public LabWorkload {
 public:
  Status Wait(int stream) override {
    return cuda_.Check(cuda_.api().stream_synchronize(At(stream)), "waiting for the gpu");
  }

 protected:
  explicit OnStreams(const CudaLibrary& cuda) : cuda_(cuda) {}

  Status Open(std::string_view ptx, int streams) {
    ASSIGN_OR_RETURN(module_, LoadGpuModule(cuda_, ptx));
    for (int i = 0; i < streams; ++i) {
      ASSIGN_OR_RETURN(GpuStream stream, MakeGpuStream(cuda_));
      streams_.push_back(std::move(stream));
    }
    return {};
  }

  cuda::Stream At(int stream) const { return streams_[static_cast<std::size_t>(stream)].get(); }

  Result<cuda::Function> Kernel(const char* name) const { return FindKernel(cuda_, module_, name); }

  // One line of a grid; `parameters` are the addresses of the kernel's arguments.
  template <std::size_t N>
  Status LaunchLine(cuda::Function kernel, unsigned blocks, int stream,
                    std::array<void*, N> parameters) const {
    return cuda_.Check(cuda_.api().launch(kernel, blocks, 1, 1, kThreads, 1, 1, 0, At(stream),
                                          parameters.data(), nullptr),
                       "launching a kernel");
  }

  const CudaLibrary& cuda_;
  GpuModule module_;
  std::vector<GpuStream> streams_;
};

class Spin final : public OnStreams {
 public:
  Spin(const CudaLibrary& cuda, unsigned blocks) : OnStreams(cuda), blocks_(blocks) {}

  Status Prepare(int streams) {
    RETURN_IF_ERROR(Open(embedded::plain_ptx, streams));
    ASSIGN_OR_RETURN(kernel_, Kernel("sublet_spin"));
    return {};
  }

  Status Launch(int stream) override {
    cuda::DevicePointer nowhere = 0;  // It writes nothing.
    unsigned iterations = kSpinIterations;
    return LaunchLine(kernel_, blocks_, stream, std::array<void*, 2>{&nowhere, &iterations});
  }

 private:
  const unsigned blocks_;
  cuda::Function kernel_ = nullptr;
};

class Mem final : public OnStreams {
 public:
  Mem(const CudaLibrary& cuda, unsigned blocks) : OnStreams(cuda), blocks_(blocks) {}

  Status Prepare(int streams) {
    RETURN_IF_ERROR(Open(embedded::plain_ptx, streams));
    ASSIGN_OR_RETURN(kernel_, Kernel("sublet_stream"));
    for (int i = 0; i < streams; ++i) {
      ASSIGN_OR_RETURN(GpuBuffer buffer, MakeGpuBuffer(cuda_, kStreamBytes));
      buffers_.push_back(std::move(buffer));
    }
    return {};
  }

  Status Launch(int stream) override {
    cuda::DevicePointer data = buffers_[static_cast<std::size_t>(stream)].get();
    unsigned long long count = static_cast<unsigned long long>(kStreamBytes.count) / 16;
    return LaunchLine(kernel_, blocks_, stream, std::array<void*, 2>{&data, &count});
  }

 private:
  const unsigned blocks_;
  cuda::Function kernel_ = nullptr;
  std::vector<GpuBuffer> buffers_;
};

class Transfer final : public OnStreams {
 public:
  Transfer(const CudaLibrary& cuda, unsigned blocks) : OnStreams(cuda), blocks_(blocks) {}

  Status Prepare(int streams) {
    RETURN_IF_ERROR(Open(embedded::plain_ptx, streams));
    ASSIGN_OR_RETURN(kernel_, Kernel("sublet_scale"));
    for (int i = 0; i < streams; ++i) {
      ASSIGN_OR_RETURN(GpuBuffer buffer, MakeGpuBuffer(cuda_, kTransferBytes));
      ASSIGN_OR_RETURN(PinnedBuffer pinned, MakePinnedBuffer(cuda_, kTransferBytes));
      auto* const values = static_cast<float*>(pinned.get());
      std::fill_n(values, kTransferBytes.count / 4, 1.0F);
      buffers_.push_back(std::move(buffer));
      pinned_.push_back(std::move(pinned));
    }
    return {};
  }

  Status Launch(int stream) override {
    const auto at = static_cast<std::size_t>(stream);
    constexpr auto kBytes = static_cast<std::size_t>(kTransferBytes.count);
    cuda::DevicePointer data = buffers_[at].get();
    unsigned long long count = kBytes / 4;
    unsigned rounds = kTransferRounds;
    RETURN_IF_ERROR(
        cuda_.Check(cuda_.api().copy_to_device(data, pinned_[at].get(), kBytes, At(stream)),
                    "copying to the gpu"));
    RETURN_IF_ERROR(
        LaunchLine(kernel_, blocks_, stream, std::array<void*, 3>{&data, &count, &rounds}));
    return cuda_.Check(cuda_.api().copy_from_device(pinned_[at].get(), data, kBytes, At(stream)),
                       "copying from the gpu");
  }

 private:
  const unsigned blocks_;
  cuda::Function kernel_ = nullptr;
  std::vector<GpuBuffer> buffers_;
  std::vector<PinnedBuffer> pinned_;
};

class Gemm final : public OnStreams {
 public:
  explicit Gemm(const CudaLibrary& cuda) : OnStreams(cuda) {}

  Status Prepare(int streams) {
    RETURN_IF_ERROR(Open(embedded::tensor_ptx, streams));
    ASSIGN_OR_RETURN(kernel_, Kernel("sublet_gemm"));
    RETURN_IF_ERROR(cuda_.Check(
        cuda_.api().function_set_attribute(kernel_, cuda::kFunctionMaxDynamicSharedBytes,
                                           static_cast<int>(kGemmSharedBytes)),
        "asking for shared memory"));
    ASSIGN_OR_RETURN(const cuda::Function fill, Kernel("sublet_fill"));
    for (unsigned seed = 1; seed <= 2; ++seed) {
      ASSIGN_OR_RETURN(GpuBuffer factor, MakeGpuBuffer(cuda_, kGemmBytes));
      cuda::DevicePointer data = factor.get();
      unsigned long long count = static_cast<unsigned long long>(kGemmBytes.count) / 2;
      unsigned seed_value = seed;
      float scale = 1;
      RETURN_IF_ERROR(
          LaunchLine(fill, 1024, 0, std::array<void*, 4>{&data, &count, &seed_value, &scale}));
      factors_.push_back(std::move(factor));
    }
    for (int i = 0; i < streams; ++i) {
      ASSIGN_OR_RETURN(GpuBuffer product, MakeGpuBuffer(cuda_, kGemmBytes));
      products_.push_back(std::move(product));
    }
    return Wait(0);
  }

  Status Launch(int stream) override {
    cuda::DevicePointer a = factors_[0].get();
    cuda::DevicePointer b = factors_[1].get();
    cuda::DevicePointer c = products_[static_cast<std::size_t>(stream)].get();
    int size = kGemmSize;
    std::array<void*, 5> parameters{&a, &b, &c, &size, &size};
    constexpr unsigned kTiles = kGemmSize / kGemmTile;
    return cuda_.Check(cuda_.api().launch(kernel_, kTiles, kTiles, 1, kThreads, 1, 1,
                                          kGemmSharedBytes, At(stream), parameters.data(), nullptr),
                       "launching a kernel");
  }

 private:
  cuda::Function kernel_ = nullptr;
  std::vector<GpuBuffer> factors_;
  std::vector<GpuBuffer> products_;
};

template <typename T>
Result<std::unique_ptr<LabWorkload>> Prepared(std::unique_ptr<T> workload, int streams) {
  RETURN_IF_ERROR(workload->Prepare(streams));
  return std::unique_ptr<LabWorkload>(std::move(workload));
}

}  // namespace

const std::vector<WorkloadFacts>& Workloads() {
  static const std::vector<WorkloadFacts> kWorkloads = {
      {.name = "small", .unit = "kernel", .memory = {}, .memory_per_stream = {}},
      {.name = "big", .unit = "kernel", .memory = {}, .memory_per_stream = {}},
      {.name = "mem", .unit = "kernel", .memory = kStreamBytes, .memory_per_stream = kStreamBytes},
      {.name = "gemm",
       .unit = "product",
       .memory = kGemmBytes * 3,
       .memory_per_stream = kGemmBytes,
       .tensor_cores = true},
      {.name = "transformer",
       .unit = "forward pass",
       .memory = Transformer::kMemory + Transformer::kMemoryPerStream,
       .memory_per_stream = Transformer::kMemoryPerStream,
       .tensor_cores = true},
      {.name = "transfer",
       .unit = "round trip",
       .memory = kTransferBytes,
       .memory_per_stream = kTransferBytes},
  };
  return kWorkloads;
}

const WorkloadFacts* FindWorkload(std::string_view name) {
  const auto it = std::ranges::find(Workloads(), name, &WorkloadFacts::name);
  return it == Workloads().end() ? nullptr : &*it;
}

Result<std::unique_ptr<LabWorkload>> LabWorkload::Make(const CudaLibrary& cuda,
                                                       const CudaDevice& device,
                                                       std::string_view name,
                                                       const WorkloadOptions& options) {
  const WorkloadFacts* const facts = FindWorkload(name);
  if (facts == nullptr)
    return Fail(ErrorCode::kNotFound, fmt::format("no such workload: {}", name));
  if (facts->tensor_cores && !device.AtLeast(8, 0)) {
    return Fail(ErrorCode::kUnsupported,
                fmt::format("{} needs compute capability 8.0, the gpu has {}.{}", name,
                            device.capability_major, device.capability_minor));
  }
  const int sms = options.gpu_sm_count > 0 ? options.gpu_sm_count : device.sm_count;
  const unsigned full = kBigBlocksPerSm * static_cast<unsigned>(sms);
  if (name == "small") {
    return Prepared(std::make_unique<Spin>(cuda, kSmallBlocks), options.streams);
  }
  if (name == "big") return Prepared(std::make_unique<Spin>(cuda, full), options.streams);
  if (name == "mem") return Prepared(std::make_unique<Mem>(cuda, full), options.streams);
  if (name == "transfer") return Prepared(std::make_unique<Transfer>(cuda, full), options.streams);
  if (name == "gemm") return Prepared(std::make_unique<Gemm>(cuda), options.streams);
  return Prepared(std::make_unique<Transformer>(cuda, device), options.streams);
}

Status LabWorkload::RunUnit(int stream) {
  RETURN_IF_ERROR(Launch(stream));
  return Wait(stream);
}

Status PokeIllegalAddress(const CudaLibrary& cuda) {
  ASSIGN_OR_RETURN(const GpuModule module, LoadGpuModule(cuda, embedded::plain_ptx));
  ASSIGN_OR_RETURN(const cuda::Function poke, FindKernel(cuda, module, "sublet_poke"));
  unsigned long long address = 0x10;  // Page 0 is never mapped.
  std::array<void*, 1> parameters{&address};
  RETURN_IF_ERROR(
      cuda.Check(cuda.api().launch(poke, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters.data(), nullptr),
                 "launching a kernel"));
  return cuda.Check(cuda.api().context_synchronize(), "writing to an illegal address");
}

}  // namespace sublet
