// measure/workload.h
//
// What the lab's processes do: six small programs, each typical of how GPUs are used.
//
//   name         a unit of work                                        limited by
//   small        one kernel of 16 blocks, about 0.1 ms                 latency: most SMs stay empty
//   big          one kernel of 8 blocks an SM                          arithmetic of all SMs
//   mem          one pass over 256 MiB, read and written               memory bandwidth
//   gemm         one bf16 product of 4096 x 4096 x 4096                tensor cores
//   transformer  a forward pass of a 6-layer encoder (width 768, 64    a sequence of small kernels
//                tokens, batch 1, bf16) as one CUDA graph
//   transfer     16 MiB in, a kernel over them, 16 MiB out             copies
//
//   ASSIGN_OR_RETURN(auto work, LabWorkload::Make(cuda, device, "small", {.streams = 2}));
//   RETURN_IF_ERROR(work->RunUnit(0));   // launch on stream 0 and wait for it
//
// A workload needs a current CUDA context, allocates what it needs once, and frees it when it goes.
// `big` has its blocks counted on the whole GPU (WorkloadOptions::gpu_sm_count), so that its unit
// is the same work under every SM cap; the transformer's kernels take the tile that fills the SMs
// which they see, as the libraries that people use do.
//
// Thread safety: one thread at a time.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "measure/cuda_library.h"

namespace sublet {

struct WorkloadFacts {
  std::string_view name;
  std::string_view unit;  // "kernel", "forward pass", ...
  Bytes memory;           // What it allocates on the GPU for one stream; the context comes on top.
  Bytes memory_per_stream;    // And for each further one.
  bool tensor_cores = false;  // Needs compute capability 8.0.
};
const std::vector<WorkloadFacts>& Workloads();  // In the order of the table above.
// nullptr for an unknown name.
const WorkloadFacts* FindWorkload(std::string_view name);

struct WorkloadOptions {
  int streams = 1;       // Units that may run at once; each stream has buffers of its own.
  int gpu_sm_count = 0;  // SMs of the whole GPU; 0: as many as the device shows.
};

class LabWorkload {
 public:
  // Fails with kNotFound for an unknown name, kUnavailable where memory is short or the driver
  // refuses the kernels, kUnsupported where this GPU is too old for them.
  static Result<std::unique_ptr<LabWorkload>> Make(const CudaLibrary& cuda,
                                                   const CudaDevice& device, std::string_view name,
                                                   const WorkloadOptions& options);
  virtual ~LabWorkload() = default;

  // Puts one unit on a stream; does not wait.
  virtual Status Launch(int stream) = 0;
  // Waits until the stream is idle.
  virtual Status Wait(int stream) = 0;

  Status RunUnit(int stream);
};

// Launches a kernel that writes where it must not, and waits for what comes of it: the error.
Status PokeIllegalAddress(const CudaLibrary& cuda);

// The transformer's weights and input, and what a forward pass makes of them, for a test to compare
// with its own arithmetic. Everything is bf16 as floats.
struct TransformerValues {
  std::vector<float> input;                 // 64 x 768
  std::vector<std::vector<float>> weights;  // By layer: qkv, out, up, down; N x K each.
  std::vector<float> output;                // 64 x 768, after the last normalisation.
};
Result<TransformerValues> RunTransformerOnce(const CudaLibrary& cuda, const CudaDevice& device);

}  // namespace sublet
