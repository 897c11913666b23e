#include "measure/worker.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "measure/cuda_library.h"
#include "measure/gpu_handles.h"
#include "measure/start_line.h"
#include "measure/stream_tally.h"
#include "measure/timebase.h"
#include "measure/worker_channel.h"
#include "measure/workload.h"

namespace sublet {
namespace {

using nlohmann::json;

// Big enough that filling 140 GiB takes 140 calls; the smallest is the granularity of the driver.
constexpr Bytes kFirstAllocation = 1_GiB;
constexpr Bytes kLastAllocation = 2_MiB;

// A runner that leaves a round for whatever reason must not keep the others waiting.
class Place {
 public:
  Place(StartLine& line, int number) : line_(line), number_(number) {}
  ~Place() { Leave(); }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  void Leave() { line_.LeaveOut(number_); }

 private:
  StartLine& line_;
  const int number_;
};

struct RoundOrder {
  int place = 0;
  std::int64_t warmup_ns = 0;
  std::int64_t window_ns = 0;
  WorkerDeed deed = WorkerDeed::kNone;
};

class Worker {
 public:
  Worker(FileDescriptor channel, StartLine line)
      : channel_(std::move(channel)), line_(std::move(line)) {}

  Status Serve();

 private:
  Result<json> Obey(const json& order);
  Result<json> Open(const json& order);
  Result<json> Prepare(const std::string& name, int streams);
  Result<json> Round(const RoundOrder& order);
  Status RunUnits(const RoundOrder& order, std::int64_t start_ns, Place& place,
                  std::vector<StreamTally>& tallies);
  Status Do(WorkerDeed deed, Place& place);
  Result<json> AllocateToTheWall();

  FileDescriptor channel_;
  StartLine line_;
  Timebase time_;
  int gpu_sm_count_ = 0;
  double startup_ms_ = 0;
  double first_unit_ms_ = 0;
  // In the order in which they need each other.
  std::optional<CudaLibrary> cuda_;
  std::optional<CudaContext> context_;
  std::unique_ptr<LabWorkload> workload_;
  std::string workload_name_;
  int streams_ = 0;
};

Status Worker::Serve() {
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<json> order, ReceiveMessage(channel_.get()));
    if (!order) return {};
    const Result<json> answer = Obey(*order);
    RETURN_IF_ERROR(SendMessage(channel_.get(), answer ? *answer : ErrorToMessage(answer.error())));
  }
}

Result<json> Worker::Obey(const json& order) {
  const std::string what = order.value("do", "");
  if (what == "open") return Open(order);
  if (!context_) return Fail(ErrorCode::kInvalid, fmt::format("not open yet: {}", what));
  // From here until the answer it is busy, unless it waits for the GPU.
  const Timebase::Hold hold(time_);
  if (what == "prepare") return Prepare(order.value("workload", ""), order.value("streams", 1));
  if (what == "round") {
    return Round({.place = order.value("place", 0),
                  .warmup_ns = order.value("warmup_ns", std::int64_t{0}),
                  .window_ns = order.value("window_ns", std::int64_t{0}),
                  .deed = order.value("deed", WorkerDeed::kNone)});
  }
  if (what == "allocate") return AllocateToTheWall();
  if (what == "rest") {
    workload_.reset();
    return json::object();
  }
  return Fail(ErrorCode::kInvalid, fmt::format("unknown order: {}", what));
}

Result<json> Worker::Open(const json& order) {
  const std::string library = order.value("cuda", "libcuda.so.1");
  gpu_sm_count_ = order.value("gpu_sm_count", 0);
  time_ = Timebase::Of(library);
  const Timebase::Hold hold(time_);
  // The simulated clock knows nothing of what the loader and the kernel took.
  const std::int64_t began_ns =
      time_.simulated() ? time_.Now() : order.value("started_ns", time_.Now());
  ASSIGN_OR_RETURN(CudaLibrary cuda, CudaLibrary::Open(library));
  cuda_.emplace(std::move(cuda));
  ASSIGN_OR_RETURN(
      CudaContext context,
      CudaContext::Make(*cuda_, {.blocking_wait = order.value("blocking_wait", false)}));
  context_.emplace(std::move(context));
  startup_ms_ = static_cast<double>(time_.Now() - began_ns) * 1e-6;
  return json{{"startup_ms", startup_ms_}, {"sm_count", context_->device().sm_count}};
}

Result<json> Worker::Prepare(const std::string& name, int streams) {
  if (!workload_ || name != workload_name_ || streams != streams_) {
    workload_.reset();  // First, so that there is room for the new one.
    const std::int64_t began_ns = time_.Now();
    ASSIGN_OR_RETURN(workload_,
                     LabWorkload::Make(*cuda_, context_->device(), name,
                                       {.streams = streams, .gpu_sm_count = gpu_sm_count_}));
    workload_name_ = name;
    streams_ = streams;
    for (int i = 0; i < streams; ++i) {
      RETURN_IF_ERROR(workload_->RunUnit(i));
      if (first_unit_ms_ == 0) {
        first_unit_ms_ = startup_ms_ + static_cast<double>(time_.Now() - began_ns) * 1e-6;
      }
    }
  }
  return json{{"first_unit_ms", first_unit_ms_}};
}

Result<json> Worker::Round(const RoundOrder& order) {
  Place place(line_, order.place);
  if (!workload_) return Fail(ErrorCode::kInvalid, "a round without a workload");
  const std::optional<std::int64_t> start_ns =
      line_.Arrive(order.place, [this] { return time_.Now(); });
  const Error aborted{ErrorCode::kUnavailable, "the round was aborted", ""};
  if (!start_ns) return tl::unexpected<Error>(aborted);
  const std::int64_t begin_ns = *start_ns + order.warmup_ns;
  std::vector<StreamTally> tallies(
      static_cast<std::size_t>(streams_),
      StreamTally({.begin_ns = begin_ns, .end_ns = begin_ns + order.window_ns}));
  RETURN_IF_ERROR(RunUnits(order, *start_ns, place, tallies));
  if (line_.Aborted()) return tl::unexpected<Error>(aborted);
  std::vector<StreamFigures> figures;
  for (const StreamTally& tally : tallies) figures.push_back(tally.Figures());
  return FiguresToMessage(figures);
}

// One unit is under way on each stream at any time; the oldest is waited for.
Status Worker::RunUnits(const RoundOrder& order, std::int64_t start_ns, Place& place,
                        std::vector<StreamTally>& tallies) {
  const std::int64_t midway_ns = start_ns + order.warmup_ns + order.window_ns / 2;
  std::vector<std::int64_t> launched_ns(tallies.size());
  WorkerDeed deed = order.deed;
  bool past = false;
  for (std::size_t i = 0; i < tallies.size(); ++i) {
    launched_ns[i] = time_.Now();
    RETURN_IF_ERROR(workload_->Launch(static_cast<int>(i)));
  }
  for (std::size_t at = 0;; at = (at + 1) % tallies.size()) {
    const int stream = static_cast<int>(at);
    RETURN_IF_ERROR(workload_->Wait(stream));
    const std::int64_t now_ns = time_.Now();
    tallies[at].Finished(launched_ns[at], now_ns);
    if (!past && std::ranges::all_of(tallies, &StreamTally::Crossed)) {
      past = true;
      line_.Pass(order.place);
    }
    if (line_.AllPast()) break;
    if (deed != WorkerDeed::kNone && now_ns >= midway_ns) {
      RETURN_IF_ERROR(Do(std::exchange(deed, WorkerDeed::kNone), place));
    }
    launched_ns[at] = now_ns;
    RETURN_IF_ERROR(workload_->Launch(stream));
  }
  for (int i = 0; i < streams_; ++i) RETURN_IF_ERROR(workload_->Wait(i));
  return {};
}

Status Worker::Do(WorkerDeed deed, Place& place) {
  switch (deed) {
    case WorkerDeed::kNone:
      return {};
    case WorkerDeed::kReport:
      RETURN_IF_ERROR(SendMessage(channel_.get(), {{"midway", true}}));
      // Simulated time would run away from the lab, which acts in real time.
      if (time_.simulated()) line_.AwaitGo();
      return {};
    case WorkerDeed::kIllegalAccess:
      place.Leave();
      RETURN_IF_ERROR(PokeIllegalAddress(*cuda_));
      return Fail(ErrorCode::kUnsupported, "an illegal access went unnoticed");
    case WorkerDeed::kSleepForever: {
      place.Leave();
      const Timebase::Leave leave(time_);
      while (true) ::pause();
    }
  }
  return {};
}

Result<json> Worker::AllocateToTheWall() {
  std::vector<GpuBuffer> buffers;
  Bytes allocated;
  cuda::Return refusal = cuda::kSuccess;
  for (Bytes size = kFirstAllocation; size >= kLastAllocation; size.count /= 2) {
    while (true) {
      cuda::DevicePointer pointer = 0;
      refusal = cuda_->api().memory_alloc(&pointer, static_cast<std::size_t>(size.count));
      if (refusal != cuda::kSuccess) break;
      buffers.emplace_back(pointer, cuda_->api().memory_free);
      allocated += size;
    }
    if (refusal != cuda::kOutOfMemory) RETURN_IF_ERROR(cuda_->Check(refusal, "allocating"));
  }
  return json{{"allocated_bytes", allocated.count}, {"refusal", cuda_->NameOf(refusal)}};
}

}  // namespace

Status ServeAsWorker(FileDescriptor channel, FileDescriptor line_fd) {
  ASSIGN_OR_RETURN(StartLine line, StartLine::Open(std::move(line_fd)));
  return Worker(std::move(channel), std::move(line)).Serve();
}

}  // namespace sublet
