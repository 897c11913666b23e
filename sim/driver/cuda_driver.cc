#include "cuda_driver.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "process_rules.h"

namespace sublet::sim {
namespace {

using cuda::Return;

struct CurrentCuda {
  std::mutex mutex;
  std::unique_ptr<CudaDriver> driver;
};

CurrentCuda& TheCurrentCuda() {
  static CurrentCuda current;  // Its end takes the process off the cards.
  return current;
}

// ---- contexts -----------------------------------------------------------------------------------

// Measured on an H200: a bare context's memory by the SMs that it may use, under MPS and, last,
// without. docs/formats/calibration.md has the table.
Bytes ContextMemory(double sm_count, bool mps) {
  struct Point {
    double percent;
    double mib;
  };
  constexpr Point kPoints[] = {{5, 61}, {10, 75}, {25, 147}, {50, 277}, {75, 393}, {100, 519}};
  constexpr double kWithoutMps = 526.0 / 519;
  constexpr double kSms = 132;
  const double percent = 100 * sm_count / kSms;
  const Point* high =
      std::ranges::find_if(kPoints, [&](const Point& p) { return p.percent >= percent; });
  if (high == std::begin(kPoints)) high = std::begin(kPoints) + 1;
  if (high == std::end(kPoints)) --high;
  const Point& low = *(high - 1);
  const double slope = (high->mib - low.mib) / (high->percent - low.percent);
  const double mib = low.mib + slope * (percent - low.percent);
  return Bytes::FromMib(static_cast<std::int64_t>((mps ? mib : mib * kWithoutMps) + 0.5));
}

// SMs are handed out in whole pairs, and never fewer than eight. Observed on an H200: 5 % are 8 of
// 132, 10 % are 12, 25 % are 32, 33.3 % are 42, 50 % are 66.
double CapOf(double percent, int sm_count) {
  constexpr int kPair = 2;
  constexpr int kFewest = 8;
  const int pairs = static_cast<int>((percent / 100 * sm_count + 1e-9) / kPair);
  return std::clamp(pairs * kPair, std::min(kFewest, sm_count), sm_count);
}

}  // namespace

Result<std::unique_ptr<CudaDriver>> CudaDriver::Start() {
  auto driver = std::make_unique<CudaDriver>();
  ASSIGN_OR_RETURN(driver->driver_, Driver::Start());
  driver->devices_ = VisibleDevices(*driver->driver_, std::getenv("CUDA_VISIBLE_DEVICES"));
  ASSIGN_OR_RETURN(driver->host_,
                   CardHost::Open(driver->driver_->folder(), driver->driver_->node()));
  driver->pid_ = ::getpid();
  return driver;
}

CudaDriver::~CudaDriver() {
  if (process_ == nullptr || ::getpid() != pid_) return;
  const CardHost::Locked lock(*host_);
  host_->Detach(*process_);
}

CardProcess* CudaDriver::Process() {
  if (process_ == nullptr && ::getpid() == pid_) {
    const CardHost::Locked lock(*host_);
    process_ = host_->Attach();
  }
  return process_;
}

// Where the device's part of the shared table is; made for a MIG device that is new.
int CudaDriver::PartitionOf(const SimDevice& device, int gpu_sm_count) {
  if (!device.target.IsMigDevice()) return 0;
  CardGpu& gpu = host_->table().gpus[device.target.gpu];
  int place = 1;
  for (int i = 1; i < kPartitionsMax; ++i) {
    CardPartition& partition = gpu.partitions[i];
    const bool same = partition.gpu_instance == device.target.gpu_instance &&
                      partition.compute_instance == device.target.compute_instance;
    if (partition.used && same) return i;
    // An entry whose instance is gone is nobody's.
    const sublet::GpuInstance* const instance =
        partition.used ? FindInstance(device.target.gpu_state(), partition.gpu_instance) : nullptr;
    const bool gone = instance == nullptr ||
                      FindComputeInstance(*instance, partition.compute_instance) == nullptr;
    if (gone) place = i;
  }
  CardPartition& partition = gpu.partitions[place];
  partition = {};
  partition.used = true;
  partition.gpu_instance = device.target.gpu_instance;
  partition.compute_instance = device.target.compute_instance;
  partition.facts = gpu.partitions[0].facts;
  partition.facts.sm_count = device.sm_count;
  partition.facts.bytes_per_ns *= static_cast<double>(device.sm_count) / gpu_sm_count;
  return place;
}

Return CudaDriver::OpenContext(int device, unsigned flags, bool primary, SimContext** out) {
  if (device < 0 || device >= static_cast<int>(devices_.size())) return cuda::kInvalidDevice;
  if (Process() == nullptr) return kCudaDeviceUnavailable;
  auto context = std::make_unique<SimContext>();
  context->device = device;
  context->flags = flags;
  context->primary = primary;
  const SimDevice& on = devices_[static_cast<std::size_t>(device)];
  MpsJoining joining;
  const MpsAnswer answer = JoinMps(*host_, devices_, device, joining);
  if (answer == MpsAnswer::kRefused) return static_cast<Return>(joining.code);
  if (answer == MpsAnswer::kJoined) context->mps = joining.grant;
  context->sm_cap = context->mps ? CapOf(context->mps->sm_percent, on.sm_count) : on.sm_count;
  context->context_memory = ContextMemory(context->sm_cap, context->mps.has_value());
  if (const Return code = ChangeMemory(*context, context->context_memory, true);
      code != cuda::kSuccess) {
    LeaveMps(context->mps);
    return code;
  }
  if (const Return code = Register(*context); code != cuda::kSuccess) {
    ChangeMemory(*context, Bytes{-context->context_memory.count}, false);
    LeaveMps(context->mps);
    return code;
  }
  SimContext* const made = context.get();
  contexts_[made] = std::move(context);
  *out = made;
  return cuda::kSuccess;
}

// Gives the context its place in the shared table, with a default stream.
Return CudaDriver::Register(SimContext& context) {
  const SimDevice& on = devices_[static_cast<std::size_t>(context.device)];
  const CardHost::Locked lock(*host_);
  const auto place = std::ranges::find(process_->contexts, false, &CardContext::used);
  const auto stream = std::ranges::find(process_->streams, false, &CardStream::used);
  if (place == std::end(process_->contexts) || stream == std::end(process_->streams)) {
    return cuda::kOutOfMemory;
  }
  context.index = static_cast<int>(place - process_->contexts);
  context.default_stream = static_cast<int>(stream - process_->streams);
  const int gpu_sms = driver_->gpu(on.target).facts.sm_count.value_or(132);
  *place = {.used = true,
            .gpu = on.target.gpu,
            .partition = PartitionOf(on, gpu_sms),
            .group = 0,
            .server_pid = context.mps ? context.mps->server_pid : 0,
            .sm_cap = context.sm_cap,
            .error = 0};
  const int process_index = static_cast<int>(process_ - host_->table().processes);
  place->group = context.mps ? 1 + kCardProcessesMax * kCardContextsMax + context.mps->server
                             : 1 + process_index * kCardContextsMax + context.index;
  *stream = {.used = true, .is_default = true, .context = context.index};
  context.facts = host_->table().gpus[place->gpu].partitions[place->partition].facts;
  return cuda::kSuccess;
}

Return CudaDriver::MakeContext(int device, unsigned flags, SimContext** out) {
  return OpenContext(device, flags, false, out);
}

Return CudaDriver::RetainPrimary(int device, SimContext** out) {
  SimContext*& primary = primaries_[device];
  if (primary == nullptr) {
    const Return code = OpenContext(device, primary_flags_[device], true, &primary);
    if (code != cuda::kSuccess) return code;
  }
  ++primary->references;
  *out = primary;
  return cuda::kSuccess;
}

Return CudaDriver::ReleasePrimary(int device) {
  const auto it = primaries_.find(device);
  if (it == primaries_.end() || it->second == nullptr) return cuda::kInvalidContext;
  if (--it->second->references > 0) return cuda::kSuccess;
  SimContext& context = *std::exchange(it->second, nullptr);
  return EndContext(context);
}

Return CudaDriver::SetPrimaryFlags(int device, unsigned flags) {
  if (device < 0 || device >= static_cast<int>(devices_.size())) return cuda::kInvalidDevice;
  primary_flags_[device] = flags;
  return cuda::kSuccess;
}

// What is in the context goes with it.
Return CudaDriver::EndContext(SimContext& context) {
  std::erase_if(allocations_,
                [&](const auto& entry) { return entry.second.context == context.index; });
  small_bytes_.erase(context.index);
  std::erase_if(streams_,
                [&](const auto& entry) { return entry.second->context == context.index; });
  {
    const CardHost::Locked lock(*host_);
    host_->clock().Drop(*process_, context.index);
    for (CardStream& stream : process_->streams) {
      if (stream.used && stream.context == context.index) stream = {};
    }
    process_->contexts[context.index] = {};
    host_->Advance();
  }
  // The device's memory is counted anew; nothing may refuse to give some back.
  const SimDevice& on = devices_[static_cast<std::size_t>(context.device)];
  std::optional<MpsGrant> mps = context.mps;
  contexts_.erase(&context);
  const Bytes left = MemoryOn(static_cast<int>(&on - devices_.data()));
  driver_->Update([&](SimState& state) {
    std::erase_if(state.processes, [&](ProcessState& process) {
      const bool mine = process.pid == pid_ && process.gpu == on.target.gpu &&
                        process.gpu_instance == on.target.gpu_instance &&
                        process.compute_instance == on.target.compute_instance;
      if (mine) process.memory = left;
      return mine && left.count == 0;
    });
    return nvml::kSuccess;
  });
  LeaveMps(mps);
  return cuda::kSuccess;
}

SimContext* CudaDriver::FindContext(const void* handle) {
  const auto it = contexts_.find(handle);
  return it == contexts_.end() ? nullptr : it->second.get();
}

bool CudaDriver::IsMpsClient() const {
  return std::ranges::any_of(contexts_,
                             [](const auto& entry) { return entry.second->mps.has_value(); });
}

Return CudaDriver::Health(const SimContext& context) {
  if (process_ == nullptr || ::getpid() != pid_) return cuda::kNotInitialized;
  // Without the lock: an error that comes at this moment is met by the next call.
  const std::atomic_ref<std::int32_t> error(process_->contexts[context.index].error);
  return static_cast<Return>(error.load(std::memory_order_relaxed));
}

// ---- streams and events -------------------------------------------------------------------------

SimStream* CudaDriver::FindStream(SimContext& context, const void* handle) {
  // 1 and 2 are the default stream's other names.
  if (reinterpret_cast<std::uintptr_t>(handle) <= 2) {
    std::unique_ptr<SimStream>& stream = streams_[&context];
    if (stream == nullptr) stream = std::make_unique<SimStream>();
    stream->context = context.index;
    stream->index = context.default_stream;
    return stream.get();
  }
  const auto it = streams_.find(handle);
  if (it == streams_.end() || handle == &context) return nullptr;
  return it->second->context == context.index ? it->second.get() : nullptr;
}

Return CudaDriver::MakeStream(SimContext& context, bool blocking, SimStream** out) {
  auto stream = std::make_unique<SimStream>();
  {
    const CardHost::Locked lock(*host_);
    const auto place = std::ranges::find(process_->streams, false, &CardStream::used);
    if (place == std::end(process_->streams)) return cuda::kOutOfMemory;
    *place = {.used = true, .blocking = blocking, .context = context.index};
    stream->context = context.index;
    stream->index = static_cast<int>(place - process_->streams);
  }
  SimStream* const made = stream.get();
  streams_[made] = std::move(stream);
  *out = made;
  return cuda::kSuccess;
}

// A real driver returns at once and ends the stream when its work is done.
Return CudaDriver::EndStream(SimContext& context, SimStream& stream) {
  const int index = stream.index;
  std::unique_ptr<SimStream> ended = std::move(streams_[&stream]);
  streams_.erase(ended.get());
  const Return code = WaitForStream(context, *ended);
  const CardHost::Locked lock(*host_);
  process_->streams[index] = {};
  return code;
}

Return CudaDriver::MakeEvent(bool timed, SimEvent** out) {
  if (Process() == nullptr) return kCudaDeviceUnavailable;
  auto event = std::make_unique<SimEvent>();
  {
    const CardHost::Locked lock(*host_);
    const auto place = std::ranges::find(process_->events, false, &CardEvent::used);
    if (place == std::end(process_->events)) return cuda::kOutOfMemory;
    *place = {.used = true};
    event->index = static_cast<int>(place - process_->events);
    event->timed = timed;
  }
  SimEvent* const made = event.get();
  events_[made] = std::move(event);
  *out = made;
  return cuda::kSuccess;
}

SimEvent* CudaDriver::FindEvent(const void* handle) {
  const auto it = events_.find(handle);
  return it == events_.end() ? nullptr : it->second.get();
}

Return CudaDriver::EndEvent(SimEvent& event) {
  {
    const CardHost::Locked lock(*host_);
    process_->events[event.index] = {};
  }
  events_.erase(&event);
  return cuda::kSuccess;
}

// ---- work ---------------------------------------------------------------------------------------

Return CudaDriver::Put(SimContext& context, SimStream& stream, CardItem item, std::int64_t price_ns,
                       const MemoryChange* change) {
  item.stream = stream.index;
  if (stream.capturing) {
    const bool can = item.kind != ItemKind::kRecord && item.kind != ItemKind::kAwait;
    if (!can) return kCudaCaptureUnsupported;
    stream.captured.items.push_back(item);
    if (change != nullptr) stream.captured.changes.push_back(*change);
    return cuda::kSuccess;
  }
  if (change != nullptr) Apply(*change);
  const CardHost::Locked lock(*host_);
  host_->Charge(*process_, price_ns + (context.mps ? kMpsLaunchNs : 0));
  host_->Submit(*process_, item);
  return cuda::kSuccess;
}

CardItem CudaDriver::CopyItem(std::size_t bytes, bool in) {
  constexpr double kStartNs = 2'000;
  CardItem item;
  item.kind = in ? ItemKind::kCopyIn : ItemKind::kCopyOut;
  item.work.bytes = static_cast<double>(bytes);
  item.work.full_ns = kStartNs + item.work.bytes / kBusBytesPerNs;
  return item;
}

Return CudaDriver::LaunchGraph(SimContext& context, SimStream& stream, const SimGraph& graph) {
  if (stream.capturing) return kCudaCaptureUnsupported;
  for (const MemoryChange& change : graph.changes) Apply(change);
  const CardHost::Locked lock(*host_);
  host_->Charge(*process_, kGraphLaunchNs + (context.mps ? kMpsLaunchNs : 0));
  for (CardItem item : graph.items) {
    item.stream = stream.index;
    host_->Submit(*process_, item);
  }
  return cuda::kSuccess;
}

Return CudaDriver::WaitFor(const CardWait& wait) {
  mutex.unlock();
  {
    const CardHost::Locked lock(*host_);
    host_->Charge(*process_, kAskNs);
    host_->Wait(*process_, wait);
  }
  mutex.lock();
  return cuda::kSuccess;
}

Return CudaDriver::WaitForNumber(SimContext& context, int stream, std::uint64_t number) {
  const SimContext* const address = &context;
  WaitFor({.kind = WaitKind::kStream, .index = stream, .number = number});
  const SimContext* const after = FindContext(address);  // Another thread may have ended it.
  return after == nullptr ? cuda::kInvalidContext : Health(*after);
}

Return CudaDriver::WaitForStream(SimContext& context, SimStream& stream) {
  if (stream.capturing) return kCudaCaptureUnsupported;
  // Only this process changes it, and under the process's lock.
  return WaitForNumber(context, stream.index, process_->streams[stream.index].last);
}

Return CudaDriver::WaitForContext(SimContext& context) {
  const SimContext* const address = &context;
  WaitFor({.kind = WaitKind::kContext, .index = context.index, .number = process_->last_number});
  const SimContext* const after = FindContext(address);
  return after == nullptr ? cuda::kInvalidContext : Health(*after);
}

bool CudaDriver::IsDone(int stream, std::uint64_t number) {
  const CardHost::Locked lock(*host_);
  host_->Charge(*process_, kAskNs);
  if (process_->holds) {
    // The answer is that of the process's own time, which others may not have reached yet.
    host_->Wait(*process_, {.kind = WaitKind::kTime, .time_ns = process_->local_ns});
  } else {
    host_->Follow(*process_);
  }
  return process_->streams[stream].done >= number;
}

// ---- the one driver of the process --------------------------------------------------------------

CudaDriver* TheCudaDriver() {
  CurrentCuda& current = TheCurrentCuda();
  const std::lock_guard lock(current.mutex);
  return current.driver.get();
}

Return InitialiseCuda() {
  CurrentCuda& current = TheCurrentCuda();
  const std::lock_guard lock(current.mutex);
  if (current.driver == nullptr) {
    Result<std::unique_ptr<CudaDriver>> driver = CudaDriver::Start();
    if (!driver) {
      const Error& error = driver.error();
      // CUDA has no way to say more than a code either.
      const std::string line = fmt::format("simulated cuda driver: {}{}{}\n", error.message,
                                           error.hint.empty() ? "" : "; ", error.hint);
      static_cast<void>(::write(STDERR_FILENO, line.data(), line.size()) + 1);
      return cuda::kNoDevice;
    }
    if ((*driver)->devices().empty()) return cuda::kNoDevice;
    current.driver = std::move(*driver);
  }
  return cuda::kSuccess;
}

SimContext*& CurrentContext() {
  thread_local SimContext* context = nullptr;
  return context;
}

Return MeetCudaFault(CudaDriver& driver, const char* function, bool hot) {
  if (hot && driver.node_driver().own_faults().empty()) return cuda::kSuccess;
  return static_cast<Return>(static_cast<int>(driver.node_driver().Meet(function)));
}

}  // namespace sublet::sim
