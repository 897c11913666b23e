// measure/transformer.h
//
// The workload `transformer`: an encoder's forward pass as one CUDA graph of 44 small kernels.
//
// Six layers of width 768 with 12 heads and a feed-forward part of 3072, for one sequence of 64
// tokens, bf16 with sums in fp32 (the shape of BERT base, half as deep). A layer is: normalise,
// project to queries, keys and values, attend, project and add, normalise, widen with GELU, narrow
// and add.
//
// The kernels take their tiles after the number of SMs that they see: on a whole GPU narrow tiles
// and sums in parts, so that many SMs have something to do; under an SM cap wide ones, which need
// less work in all. So do the libraries behind real models.
//
// Thread safety: one thread at a time.
#pragma once

#include <vector>

#include "measure/gpu_handles.h"
#include "measure/workload.h"

namespace sublet {

class Transformer final : public LabWorkload {
 public:
  static constexpr int kLayers = 6;
  static constexpr int kTokens = 64;
  static constexpr int kWidth = 768;
  static constexpr int kHeads = 12;
  static constexpr int kWide = 3072;  // Of the feed-forward part.

  static constexpr Bytes kMemory = Bytes::FromMib(82);          // Weights.
  static constexpr Bytes kMemoryPerStream = Bytes::FromMib(2);  // Values between the kernels.

  Transformer(const CudaLibrary& cuda, const CudaDevice& device) : cuda_(cuda), device_(device) {}

  Status Prepare(int streams);
  Status Launch(int stream) override;
  Status Wait(int stream) override;

  // What the buffers hold, waiting for copies.
  Result<TransformerValues> Values(int stream);

 private:
  struct Kernels {
    cuda::Function embed = nullptr;
    cuda::Function normalise = nullptr;
    cuda::Function project = nullptr;
    cuda::Function project_gelu = nullptr;
    cuda::Function project_add = nullptr;
    cuda::Function attend = nullptr;
  };
  // Of one stream.
  struct Lane {
    GpuStream stream;
    GpuBuffer values;
    GpuGraph graph;
  };

  Status FindKernels();
  Status FillWeights();
  Status Record(Lane& lane) const;
  Status RecordLayer(const Lane& lane, int layer) const;
  Status Project(const Lane& lane, cuda::Function kernel, cuda::DevicePointer from,
                 cuda::DevicePointer weights, cuda::DevicePointer to, int columns, int depth) const;
  Status ProjectAdd(const Lane& lane, cuda::DevicePointer from, cuda::DevicePointer weights,
                    int depth) const;
  Status Normalise(const Lane& lane) const;
  Status Start(cuda::Function kernel, unsigned x, unsigned z, unsigned threads, unsigned shared,
               const Lane& lane, void** parameters) const;

  const CudaLibrary& cuda_;
  const CudaDevice device_;
  GpuModule module_;
  Kernels kernels_;
  int tile_ = 64;  // Columns that a block of a projection makes.
  GpuBuffer weights_;
  std::vector<Lane> lanes_;
};

}  // namespace sublet
