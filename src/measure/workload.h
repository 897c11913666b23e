// measure/workload.h
//
// What the lab's processes do: six small programs, each typical of how GPUs are used.
//
//   name         a unit of work                                        limited by
//   small        one kernel of 16 blocks, about 0.1 ms                 latency: most SMs stay empty
//   big          one kernel of 8 blocks an SM                          arithmetic of all SMs
//   mem          one pass over 256 MiB, read and written               memory bandwidth
//   gemm         one bf16 product of 4096 x 4096 x 4096                tensor cores
//   transformer  a forward pass of a 6-layer encoder as a CUDA graph   a sequence of small kernels
//   transfer     16 MiB in, a kernel over them, 16 MiB out             copies
//
//   ASSIGN_OR_RETURN(auto work, Workload::Make(cuda, "small", {.streams = 2}));
//   RETURN_IF_ERROR(work->RunUnit(0));   // launch on stream 0 and wait for it
//
// A workload needs a current CUDA context, allocates what it needs once, and frees it when it goes.
//
// Thread safety: one thread at a time.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace sublet {

class CudaLibrary;

struct WorkloadFacts {
  std::string_view name;
  std::string_view unit;    // "kernel", "forward pass", ...
  Bytes memory_per_stream;  // What it allocates; the context comes on top.
};
const std::vector<WorkloadFacts>& Workloads();  // In the order of the table above.

struct WorkloadOptions {
  int streams = 1;  // Units that may run at once; each stream has buffers of its own.
};

class Workload {
 public:
  // Fails with kNotFound for an unknown name, kUnavailable where memory is short or the driver
  // refuses the kernels, kUnsupported where this GPU is too old for them (gemm and transformer need
  // compute capability 8.0).
  static Result<std::unique_ptr<Workload>> Make(const CudaLibrary& cuda, std::string_view name,
                                                const WorkloadOptions& options);
  virtual ~Workload() = default;

  // Puts one unit on a stream; does not wait.
  virtual Status Launch(int stream) = 0;
  // Waits until the stream is idle.
  virtual Status Wait(int stream) = 0;

  Status RunUnit(int stream);
};

}  // namespace sublet
