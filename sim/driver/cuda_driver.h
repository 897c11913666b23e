// sim/driver/cuda_driver.h
//
// The running simulated CUDA driver of one process, behind the C functions of libcuda.so.1: its
// devices, contexts, modules, streams, graphs and memory. What the cards do with the work is in the
// shared table (card_host.h).
//
// An exported function is CudaCall() with a body, or CallInContext() where it needs a context:
//
//   SIM_EXPORT Return cuStreamSynchronize(Stream stream) {
//     return CallInContext(__func__, [&](CudaDriver& driver, SimContext& context) {
//       return driver.WaitForStream(context, stream);
//     });
//   }
//
// Device memory is counted exactly, but mostly not there: allocations up to kBackedBytesMax have
// host memory behind them, so that what is copied in can be copied out; larger ones read as zero.
// Kernels change nothing. Copies and fills change memory when they are called, in the program's
// order, which only a program that looks before it waits could tell from the real thing.
//
// Thread safety: any thread; the bodies run under one lock of the process, but for waits.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "card_host.h"
#include "driver.h"
#include "kernel_costs.h"
#include "measure/cuda_api.h"
#include "mps_client.h"
#include "visible_devices.h"

namespace sublet::sim {

inline constexpr cuda::Return kCudaDeviceUnavailable{46};
inline constexpr cuda::Return kCudaCaptureUnsupported{900};
inline constexpr cuda::Return kCudaCaptureUnmatched{903};

// Larger allocations, weights and caches of models, would fill this machine's memory.
inline constexpr std::size_t kBackedBytesMax = 64 << 20;
// The driver hands memory out in pieces of this size; small allocations share one.
inline constexpr std::int64_t kGranule = 2 << 20;

struct SimKernel {
  std::string name;
  std::vector<int> layout;  // See LayoutOf().
};

struct SimModule {
  std::map<std::string, std::unique_ptr<SimKernel>, std::less<>> kernels;
};

// A copy or fill as it changes memory.
struct MemoryChange {
  cuda::DevicePointer device = 0;
  void* host = nullptr;
  std::size_t bytes = 0;
  enum class Way { kIn, kOut, kFill } way = Way::kIn;
  unsigned value = 0;  // kFill: each 32 bits.
};

struct SimGraph {
  std::vector<CardItem> items;
  std::vector<MemoryChange> changes;
};

struct SimStream {
  int context = 0;
  int index = 0;  // In the shared table.
  bool capturing = false;
  SimGraph captured;
};

struct SimEvent {
  int index = 0;
  bool timed = true;
};

struct SimContext {
  int index = 0;  // In the shared table.
  int device = 0;
  int default_stream = 0;
  unsigned flags = 0;
  int references = 0;  // Of a primary context.
  bool primary = false;
  Bytes context_memory;
  std::optional<MpsGrant> mps;
  double sm_cap = 0;
  CardFacts facts;
};

struct SimAllocation {
  std::size_t bytes = 0;
  int context = 0;
  std::unique_ptr<char, void (*)(void*)> backing{nullptr, nullptr};
};

class CudaDriver {
 public:
  // Finds the devices. Fails where SUBLET_SIM is not set or says nonsense.
  static Result<std::unique_ptr<CudaDriver>> Start();
  ~CudaDriver();

  Driver& node_driver() { return *driver_; }
  const std::vector<SimDevice>& devices() const { return devices_; }
  CardHost& host() { return *host_; }
  // This process's entry in the shared table; nullptr when that is full.
  CardProcess* Process();

  cuda::Return RetainPrimary(int device, SimContext** out);
  cuda::Return ReleasePrimary(int device);
  cuda::Return SetPrimaryFlags(int device, unsigned flags);
  cuda::Return MakeContext(int device, unsigned flags, SimContext** out);
  cuda::Return EndContext(SimContext& context);
  SimContext* FindContext(const void* handle);
  // Whether one of its contexts is on an MPS server.
  bool IsMpsClient() const;
  // The error that has befallen it, or kSuccess.
  cuda::Return Health(const SimContext& context);

  // nullptr stands for the context's default stream.
  SimStream* FindStream(SimContext& context, const void* handle);
  cuda::Return MakeStream(SimContext& context, bool blocking, SimStream** out);
  cuda::Return EndStream(SimContext& context, SimStream& stream);
  cuda::Return MakeEvent(bool timed, SimEvent** out);
  SimEvent* FindEvent(const void* handle);
  cuda::Return EndEvent(SimEvent& event);

  cuda::Return Allocate(SimContext& context, std::size_t bytes, cuda::DevicePointer* out);
  cuda::Return Free(cuda::DevicePointer pointer);
  cuda::Return MemoryInfo(const SimContext& context, std::size_t* free, std::size_t* total);
  bool IsAllocated(cuda::DevicePointer pointer, std::size_t bytes) const;
  void Apply(const MemoryChange& change);

  // Records the item where the stream is being captured, else submits it for that price.
  cuda::Return Put(SimContext& context, SimStream& stream, CardItem item, std::int64_t price_ns,
                   const MemoryChange* change = nullptr);
  // The device's work of moving `bytes` over the bus, or of filling them.
  static CardItem CopyItem(std::size_t bytes, bool in);
  cuda::Return LaunchGraph(SimContext& context, SimStream& stream, const SimGraph& graph);
  // Waits give the process's lock away.
  cuda::Return WaitForStream(SimContext& context, SimStream& stream);
  cuda::Return WaitForContext(SimContext& context);
  cuda::Return WaitForNumber(SimContext& context, int stream, std::uint64_t number);
  // Whether everything up to `number` in the stream is done by the process's own time.
  bool IsDone(int stream, std::uint64_t number);

  std::map<const void*, std::unique_ptr<SimModule>> modules;
  std::map<const void*, std::unique_ptr<SimGraph>> graphs;  // And executable ones.
  std::map<const void*, const SimKernel*> kernels;
  std::map<const void*, std::size_t> pinned;
  std::mutex mutex;

 private:
  cuda::Return OpenContext(int device, unsigned flags, bool primary, SimContext** out);
  cuda::Return Register(SimContext& context);
  cuda::Return ChangeMemory(const SimContext& context, Bytes delta, bool is_new);
  Bytes MemoryOn(int device) const;
  int PartitionOf(const SimDevice& device, int gpu_sm_count);
  cuda::Return WaitFor(const CardWait& wait);

  std::unique_ptr<Driver> driver_;
  std::unique_ptr<CardHost> host_;
  std::vector<SimDevice> devices_;
  CardProcess* process_ = nullptr;
  int pid_ = 0;  // A child after fork() is none of the driver's processes.
  std::map<const void*, std::unique_ptr<SimContext>> contexts_;
  std::map<int, SimContext*> primaries_;
  std::map<int, unsigned> primary_flags_;
  std::map<const void*, std::unique_ptr<SimStream>> streams_;
  std::map<const void*, std::unique_ptr<SimEvent>> events_;
  std::map<cuda::DevicePointer, SimAllocation> allocations_;
  std::map<int, std::int64_t> small_bytes_;  // By context.
  cuda::DevicePointer next_address_ = 0x7f00'0000'0000;
};

// The driver of this process after cuInit, or nullptr.
CudaDriver* TheCudaDriver();
cuda::Return InitialiseCuda();

SimContext*& CurrentContext();  // Of this thread.

// The faults asked for, as code. Calls on the hot path look only at this process's own.
cuda::Return MeetCudaFault(CudaDriver& driver, const char* function, bool hot);

template <typename Body>
cuda::Return CudaCall(const char* function, const Body& body, bool hot = false) noexcept {
  try {
    CudaDriver* const driver = TheCudaDriver();
    if (driver == nullptr) return cuda::kNotInitialized;
    if (const cuda::Return code = MeetCudaFault(*driver, function, hot); code != cuda::kSuccess) {
      return code;
    }
    const std::lock_guard lock(driver->mutex);
    return body(*driver);
  } catch (const std::bad_alloc&) {
    return cuda::kOutOfMemory;
  } catch (const std::exception&) {
    return cuda::kUnknown;
  }
}

// As CudaCall(), in the thread's current context, unless an error has befallen that.
template <typename Body>
cuda::Return CallInContext(const char* function, const Body& body, bool hot = false) noexcept {
  return CudaCall(
      function,
      [&](CudaDriver& driver) {
        SimContext* const context = driver.FindContext(CurrentContext());
        if (context == nullptr) return cuda::kInvalidContext;
        const cuda::Return health = driver.Health(*context);
        return health == cuda::kSuccess ? body(driver, *context) : health;
      },
      hot);
}

}  // namespace sublet::sim
