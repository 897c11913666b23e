// libcuda.so.1: modules, kernels, streams, events and graphs.
#include <cstring>

#include "cuda_driver.h"
#include "ptx_entries.h"

namespace sublet::sim {

using cuda::Return;
using cuda::Stream;

namespace {

constexpr std::size_t kImageBytesMax = 64 << 20;  // Where its end isn't found, it is no text.

template <typename Body>
Return OnStream(const char* function, Stream handle, const Body& body) {
  return CallInContext(
      function,
      [&](CudaDriver& driver, SimContext& context) {
        SimStream* const stream = driver.FindStream(context, handle);
        return stream == nullptr ? cuda::kInvalidHandle : body(driver, context, *stream);
      },
      true);
}

KernelLaunch LaunchOf(const SimKernel& kernel, unsigned long long blocks, unsigned blocks_z,
                      unsigned threads, unsigned shared, void** parameters) {
  KernelLaunch launch;
  launch.name = kernel.name;
  launch.blocks = blocks;
  launch.blocks_z = blocks_z;
  launch.threads = threads;
  launch.shared_bytes = shared;
  if (parameters == nullptr) return launch;
  for (std::size_t i = 0; i < kernel.layout.size(); ++i) {
    unsigned long long value = 0;
    std::memcpy(&value, parameters[i], static_cast<std::size_t>(kernel.layout[i]));
    launch.arguments.push_back(value);
  }
  return launch;
}

Return Launch(CudaDriver& driver, SimContext& context, SimStream& stream,
              const KernelLaunch& launch) {
  const KernelCost cost = CostOf(launch, context.facts);
  CardItem item;
  item.kind = ItemKind::kKernel;
  item.work = WorkOf(cost, context.facts, static_cast<int>(context.sm_cap));
  item.illegal = cost.illegal && !driver.IsAllocated(launch.arguments[0], sizeof(unsigned));
  return driver.Put(context, stream, item, kLaunchNs);
}

// Kernels that follow each other become one piece of work, which is much faster to simulate.
SimGraph Condense(const SimGraph& graph, double gap_ns) {
  SimGraph out;
  out.changes = graph.changes;
  std::vector<CardWork> kernels;
  const auto close = [&] {
    if (kernels.empty()) return;
    CardItem item;
    item.work = Sequence(kernels, gap_ns);
    out.items.push_back(item);
    kernels.clear();
  };
  for (const CardItem& item : graph.items) {
    if (item.kind == ItemKind::kKernel && !item.illegal) {
      kernels.push_back(item.work);
      continue;
    }
    close();
    out.items.push_back(item);
  }
  close();
  return out;
}

template <typename Handle>
Handle Keep(CudaDriver& driver, SimGraph graph) {
  auto kept = std::make_unique<SimGraph>(std::move(graph));
  SimGraph* const address = kept.get();
  driver.graphs[address] = std::move(kept);
  return reinterpret_cast<Handle>(address);
}

}  // namespace

// ---- modules and kernels ------------------------------------------------------------------------

// Takes PTX as text. A compiled image has no names that could be read here.
SIM_EXPORT Return cuModuleLoadData(cuda::Module* out, const void* image) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext&) {
    if (out == nullptr || image == nullptr) return cuda::kInvalidValue;
    constexpr char kElf[] =
        "\x7f"
        "ELF";
    if (std::memcmp(image, kElf, 4) == 0) return cuda::kNoBinaryForGpu;
    const auto* const text = static_cast<const char*>(image);
    const std::size_t length = ::strnlen(text, kImageBytesMax);
    if (length == kImageBytesMax) return cuda::kInvalidImage;
    auto module = std::make_unique<SimModule>();
    for (std::string& name : PtxEntries({text, length})) {
      auto kernel = std::make_unique<SimKernel>();
      kernel->layout = LayoutOf(name);
      kernel->name = name;
      driver.kernels[kernel.get()] = kernel.get();
      module->kernels[std::move(name)] = std::move(kernel);
    }
    if (module->kernels.empty()) return cuda::kInvalidPtx;
    SimModule* const address = module.get();
    driver.modules[address] = std::move(module);
    *out = reinterpret_cast<cuda::Module>(address);
    return cuda::kSuccess;
  });
}

SIM_EXPORT Return cuModuleLoadDataEx(cuda::Module* out, const void* image, unsigned, int*, void**) {
  return cuModuleLoadData(out, image);
}

SIM_EXPORT Return cuModuleUnload(cuda::Module handle) {
  return CudaCall(__func__, [&](CudaDriver& driver) {
    const auto it = driver.modules.find(handle);
    if (it == driver.modules.end()) return cuda::kInvalidHandle;
    for (const auto& [name, kernel] : it->second->kernels) driver.kernels.erase(kernel.get());
    driver.modules.erase(it);
    return cuda::kSuccess;
  });
}

SIM_EXPORT Return cuModuleGetFunction(cuda::Function* out, cuda::Module handle, const char* name) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext&) {
    if (out == nullptr || name == nullptr) return cuda::kInvalidValue;
    const auto module = driver.modules.find(handle);
    if (module == driver.modules.end()) return cuda::kInvalidHandle;
    const auto kernel = module->second->kernels.find(std::string_view(name));
    if (kernel == module->second->kernels.end()) return cuda::kNotFound;
    *out = reinterpret_cast<cuda::Function>(kernel->second.get());
    return cuda::kSuccess;
  });
}

SIM_EXPORT Return cuFuncSetAttribute(cuda::Function handle, int, int value) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext&) {
    if (!driver.kernels.contains(handle)) return cuda::kInvalidHandle;
    constexpr int kSharedMost = 227 << 10;
    return value < 0 || value > kSharedMost ? cuda::kInvalidValue : cuda::kSuccess;
  });
}

SIM_EXPORT Return cuLaunchKernel(cuda::Function handle, unsigned grid_x, unsigned grid_y,
                                 unsigned grid_z, unsigned block_x, unsigned block_y,
                                 unsigned block_z, unsigned shared, Stream stream_handle,
                                 void** parameters, void**) {
  return OnStream(__func__, stream_handle,
                  [&](CudaDriver& driver, SimContext& context, SimStream& stream) {
                    const auto kernel = driver.kernels.find(handle);
                    if (kernel == driver.kernels.end()) return cuda::kInvalidHandle;
                    const unsigned long long threads = 1ULL * block_x * block_y * block_z;
                    const unsigned long long blocks = 1ULL * grid_x * grid_y * grid_z;
                    constexpr unsigned long long kThreadsMax = 1024;
                    if (blocks == 0 || threads == 0 || threads > kThreadsMax)
                      return cuda::kInvalidValue;
                    return Launch(driver, context, stream,
                                  LaunchOf(*kernel->second, blocks, grid_z,
                                           static_cast<unsigned>(threads), shared, parameters));
                  });
}

namespace {

// CUlaunchConfig.
struct LaunchConfig {
  unsigned grid[3];
  unsigned block[3];
  unsigned shared;
  Stream stream;
  void* attributes;
  unsigned attribute_count;
};
static_assert(sizeof(LaunchConfig) == 56 && offsetof(LaunchConfig, stream) == 32);

}  // namespace

// Attributes (clusters, programmatic launches) change nothing here.
SIM_EXPORT Return cuLaunchKernelEx(const LaunchConfig* config, cuda::Function handle,
                                   void** parameters, void** extra) {
  if (config == nullptr) return cuda::kInvalidValue;
  return cuLaunchKernel(handle, config->grid[0], config->grid[1], config->grid[2], config->block[0],
                        config->block[1], config->block[2], config->shared, config->stream,
                        parameters, extra);
}

// ---- streams ------------------------------------------------------------------------------------

SIM_EXPORT Return cuStreamCreate(Stream* out, unsigned flags) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext& context) {
    if (out == nullptr || flags > cuda::kStreamNonBlocking) return cuda::kInvalidValue;
    SimStream* stream = nullptr;
    const Return code = driver.MakeStream(context, flags != cuda::kStreamNonBlocking, &stream);
    if (code == cuda::kSuccess) *out = reinterpret_cast<Stream>(stream);
    return code;
  });
}

// The priority makes no difference, as it made none between processes on an H200.
SIM_EXPORT Return cuStreamCreateWithPriority(Stream* out, unsigned flags, int) {
  return cuStreamCreate(out, flags);
}

SIM_EXPORT Return cuStreamDestroy_v2(Stream handle) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext& context) {
    SimStream* const stream = driver.FindStream(context, handle);
    const bool own = stream != nullptr && stream->index != context.default_stream;
    return own ? driver.EndStream(context, *stream) : cuda::kInvalidHandle;
  });
}

SIM_EXPORT Return cuStreamSynchronize(Stream handle) {
  return OnStream(__func__, handle,
                  [&](CudaDriver& driver, SimContext& context, SimStream& stream) {
                    return driver.WaitForStream(context, stream);
                  });
}

SIM_EXPORT Return cuStreamQuery(Stream handle) {
  return OnStream(__func__, handle,
                  [&](CudaDriver& driver, SimContext& context, SimStream& stream) {
                    if (stream.capturing) return kCudaCaptureUnsupported;
                    const std::uint64_t last = driver.Process()->streams[stream.index].last;
                    const bool done = driver.IsDone(stream.index, last);
                    const Return health = driver.Health(context);
                    if (health != cuda::kSuccess) return health;
                    return done ? cuda::kSuccess : cuda::kNotReady;
                  });
}

// ---- events -------------------------------------------------------------------------------------

SIM_EXPORT Return cuEventCreate(cuda::Event* out, unsigned flags) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext&) {
    if (out == nullptr) return cuda::kInvalidValue;
    SimEvent* event = nullptr;
    const Return code = driver.MakeEvent((flags & cuda::kEventDisableTiming) == 0, &event);
    if (code == cuda::kSuccess) *out = reinterpret_cast<cuda::Event>(event);
    return code;
  });
}

SIM_EXPORT Return cuEventDestroy_v2(cuda::Event handle) {
  return CudaCall(__func__, [&](CudaDriver& driver) {
    SimEvent* const event = driver.FindEvent(handle);
    return event == nullptr ? cuda::kInvalidHandle : driver.EndEvent(*event);
  });
}

SIM_EXPORT Return cuEventRecord(cuda::Event handle, Stream stream_handle) {
  return OnStream(__func__, stream_handle,
                  [&](CudaDriver& driver, SimContext& context, SimStream& stream) {
                    SimEvent* const event = driver.FindEvent(handle);
                    if (event == nullptr) return cuda::kInvalidHandle;
                    CardItem item;
                    item.kind = ItemKind::kRecord;
                    item.event = event->index;
                    return driver.Put(context, stream, item, kAskNs);
                  });
}

SIM_EXPORT Return cuEventSynchronize(cuda::Event handle) {
  return CallInContext(
      __func__,
      [&](CudaDriver& driver, SimContext& context) {
        SimEvent* const event = driver.FindEvent(handle);
        if (event == nullptr) return cuda::kInvalidHandle;
        const CardEvent& shared = driver.Process()->events[event->index];
        if (shared.number == 0) return cuda::kSuccess;
        return driver.WaitForNumber(context, shared.stream, shared.number);
      },
      true);
}

SIM_EXPORT Return cuEventQuery(cuda::Event handle) {
  return CallInContext(
      __func__,
      [&](CudaDriver& driver, SimContext& context) {
        SimEvent* const event = driver.FindEvent(handle);
        if (event == nullptr) return cuda::kInvalidHandle;
        const CardEvent& shared = driver.Process()->events[event->index];
        if (shared.number == 0) return cuda::kSuccess;
        const bool done = driver.IsDone(shared.stream, shared.number);
        const Return health = driver.Health(context);
        if (health != cuda::kSuccess) return health;
        return done ? cuda::kSuccess : cuda::kNotReady;
      },
      true);
}

SIM_EXPORT Return cuEventElapsedTime(float* ms, cuda::Event from, cuda::Event to) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext&) {
    const SimEvent* const first = driver.FindEvent(from);
    const SimEvent* const second = driver.FindEvent(to);
    if (ms == nullptr) return cuda::kInvalidValue;
    if (first == nullptr || second == nullptr || !first->timed || !second->timed) {
      return cuda::kInvalidHandle;
    }
    const CardEvent& a = driver.Process()->events[first->index];
    const CardEvent& b = driver.Process()->events[second->index];
    if (a.number == 0 || b.number == 0) return cuda::kInvalidHandle;
    if (!driver.IsDone(a.stream, a.number) || !driver.IsDone(b.stream, b.number)) {
      return cuda::kNotReady;
    }
    *ms = static_cast<float>(static_cast<double>(b.time_ns - a.time_ns) * 1e-6);
    return cuda::kSuccess;
  });
}

SIM_EXPORT Return cuEventElapsedTime_v2(float* ms, cuda::Event from, cuda::Event to) {
  return cuEventElapsedTime(ms, from, to);
}

SIM_EXPORT Return cuStreamWaitEvent(Stream stream_handle, cuda::Event handle, unsigned) {
  return OnStream(__func__, stream_handle,
                  [&](CudaDriver& driver, SimContext& context, SimStream& stream) {
                    SimEvent* const event = driver.FindEvent(handle);
                    if (event == nullptr) return cuda::kInvalidHandle;
                    const CardEvent& shared = driver.Process()->events[event->index];
                    if (shared.number == 0) return cuda::kSuccess;
                    CardItem item;
                    item.kind = ItemKind::kAwait;
                    item.awaited_stream = shared.stream;
                    item.awaited = shared.number;
                    return driver.Put(context, stream, item, kAskNs);
                  });
}

// ---- graphs -------------------------------------------------------------------------------------

// Of one stream: events don't take others into the capture.
SIM_EXPORT Return cuStreamBeginCapture_v2(Stream handle, int) {
  return OnStream(__func__, handle, [&](CudaDriver&, SimContext& context, SimStream& stream) {
    const bool can = !stream.capturing && stream.index != context.default_stream;
    if (!can) return kCudaCaptureUnsupported;
    stream.captured = {};
    stream.capturing = true;
    return cuda::kSuccess;
  });
}

SIM_EXPORT Return cuStreamEndCapture(Stream handle, cuda::Graph* out) {
  return OnStream(__func__, handle, [&](CudaDriver& driver, SimContext&, SimStream& stream) {
    if (out == nullptr) return cuda::kInvalidValue;
    if (!stream.capturing) return kCudaCaptureUnmatched;
    stream.capturing = false;
    *out = Keep<cuda::Graph>(driver, std::move(stream.captured));
    return cuda::kSuccess;
  });
}

SIM_EXPORT Return cuGraphInstantiateWithFlags(cuda::GraphExec* out, cuda::Graph handle,
                                              unsigned long long) {
  return CallInContext(__func__, [&](CudaDriver& driver, SimContext& context) {
    const auto graph = driver.graphs.find(handle);
    if (out == nullptr || graph == driver.graphs.end()) return cuda::kInvalidValue;
    const double gap_ns = kGraphGapNs + (context.mps ? kMpsGraphGapNs : 0);
    *out = Keep<cuda::GraphExec>(driver, Condense(*graph->second, gap_ns));
    return cuda::kSuccess;
  });
}

SIM_EXPORT Return cuGraphLaunch(cuda::GraphExec handle, Stream stream_handle) {
  return OnStream(__func__, stream_handle,
                  [&](CudaDriver& driver, SimContext& context, SimStream& stream) {
                    const auto graph = driver.graphs.find(handle);
                    if (graph == driver.graphs.end()) return cuda::kInvalidValue;
                    return driver.LaunchGraph(context, stream, *graph->second);
                  });
}

SIM_EXPORT Return cuGraphExecDestroy(cuda::GraphExec handle) {
  return CudaCall(__func__, [&](CudaDriver& driver) {
    return driver.graphs.erase(handle) == 0 ? cuda::kInvalidValue : cuda::kSuccess;
  });
}

SIM_EXPORT Return cuGraphDestroy(cuda::Graph handle) {
  return CudaCall(__func__, [&](CudaDriver& driver) {
    return driver.graphs.erase(handle) == 0 ? cuda::kInvalidValue : cuda::kSuccess;
  });
}

}  // namespace sublet::sim
