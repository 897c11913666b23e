#include "measure/profile_run.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "base/clock.h"
#include "base/interrupt.h"

namespace sublet {
namespace {

constexpr int kTickMs = 10;            // Between two looks at everything.
constexpr double kMemoryEveryS = 0.1;  // NVML takes a fraction of a millisecond, on a processor.
constexpr double kHeldForS = 0.2;      // NVML may show a new context a moment later.
constexpr double kReadyEveryS = 0.25;
constexpr std::uint64_t kBurstsMin = 20;  // A window with fewer is made longer,
constexpr double kWindowsMax = 4;         // up to so many times what was asked for.
constexpr int kWindowsTried = 3;          // A window whose halves differ is taken again.
constexpr double kHalvesTolerance = 0.10;

double SecondsSince(std::int64_t then_ns) {
  return static_cast<double>(MonotonicNanoseconds() - then_ns) / 1e9;
}

struct Reading {
  BurstCounts counts;
  std::int64_t at_ns = 0;
};

struct Copy {
  std::unique_ptr<WatchedProgram> program;
  SteadyRule rule;
  std::optional<Reading> first;  // When it had done its first burst.
  std::optional<Reading> begin;  // Of the window.
  std::optional<Reading> middle;
  std::optional<ChildEnd> end;
  CopyFigures figures;
  std::map<int, std::int64_t> held_since_ns;  // By pid.
};

class ProgramRun {
 public:
  ProgramRun(const GpuMeter& meter, const RunOptions& options)
      : meter_(meter), options_(options), free_before_(meter.MemoryFree()) {}

  ~ProgramRun() { StopAll(); }
  ProgramRun(const ProgramRun&) = delete;
  ProgramRun& operator=(const ProgramRun&) = delete;

  Result<RunFigures> Do() {
    begun_ns_ = MonotonicNanoseconds();
    RETURN_IF_ERROR(Start());
    if (!options_.load.empty()) RETURN_IF_ERROR(StartLoad());
    RETURN_IF_ERROR(WarmUp());
    for (int i = 0; i < kWindowsTried && !all_ended_; ++i) {
      RETURN_IF_ERROR(Window());
      if (HalvesAgree()) break;
      if (i + 1 == kWindowsTried) seen_.settled = false;
    }
    RETURN_IF_ERROR(TakeFigures());
    return std::move(seen_);
  }

 private:
  Status Start() {
    for (int i = 0; i < options_.copies; ++i) {
      ProgramOptions program = options_.program;
      program.copy = i;
      ASSIGN_OR_RETURN(auto started, WatchedProgram::Start(program));
      copies_.push_back({.program = std::move(started),
                         .rule = SteadyRule(options_.steady),
                         .first = {},
                         .begin = {},
                         .middle = {},
                         .end = {},
                         .figures = {},
                         .held_since_ns = {}});
    }
    return {};
  }

  Status StartLoad() {
    std::int64_t looked_ns = 0;
    while (true) {
      RETURN_IF_ERROR(Tick());
      if (all_ended_) {
        return Fail(ErrorCode::kUnavailable,
                    WithOutput(copies_[0], "the program ended before it was ready for its load"));
      }
      if (SecondsSince(looked_ns) >= kReadyEveryS) {
        if (options_.ready->Passes()) break;
        looked_ns = MonotonicNanoseconds();
      }
      if (SecondsSince(begun_ns_) > options_.timeout_s) {
        return Fail(ErrorCode::kUnavailable,
                    WithOutput(copies_[0], fmt::format("the program was not ready within {:g} s",
                                                       options_.timeout_s)),
                    "see --ready, or give it more time with --timeout");
      }
    }
    // Standard output is for the profile alone: what the load prints goes to standard error.
    ASSIGN_OR_RETURN(
        load_,
        ChildProcess::Start({.argv = {"/bin/sh", "-c", options_.load},
                             .environment = {},
                             .descriptors = {{.ours = STDERR_FILENO, .theirs = STDOUT_FILENO}}}));
    return {};
  }

  Status WarmUp() {
    while (!all_ended_) {
      RETURN_IF_ERROR(Tick());
      bool warming = false;
      for (Copy& copy : copies_) {
        const BurstCounts counts = ReadCounts(copy.program->observation());
        if (!copy.first && counts.bursts > 0) copy.first = {counts, MonotonicNanoseconds()};
        warming |= copy.rule.Add(counts) == SteadyState::kWarming && !copy.end;
      }
      if (!warming) break;
      if (SecondsSince(begun_ns_) > options_.timeout_s) {
        RETURN_IF_ERROR(CheckWorking());
        break;
      }
    }
    seen_.settled = std::ranges::all_of(
        copies_, [](const Copy& copy) { return copy.rule.state() == SteadyState::kSteady; });
    RETURN_IF_ERROR(CheckWorking());
    if (options_.confirm && !all_ended_) {
      std::vector<int> pids;
      for (const Copy& copy : copies_) {
        const std::vector<int> of_copy = copy.program->GpuPids();
        pids.insert(pids.end(), of_copy.begin(), of_copy.end());
      }
      RETURN_IF_ERROR(options_.confirm(pids));
    }
    return {};
  }

  // Every copy must have shown a burst by now.
  Status CheckWorking() const {
    for (const Copy& copy : copies_) {
      const BurstCounts counts = ReadCounts(copy.program->observation());
      if (counts.bursts > 0) continue;
      const std::string seen = fmt::format("{} contexts, {} launches, {} waits", counts.contexts,
                                           counts.launches, counts.waits);
      if (counts.launches == 0) {
        return Fail(ErrorCode::kInvalid,
                    WithOutput(copy, fmt::format("the program launched nothing on the GPU in "
                                                 "{:.0f} s; seen: {}",
                                                 SecondsSince(begun_ns_), seen)),
                    "it must use CUDA, from a dynamically linked program that keeps LD_PRELOAD; "
                    "one that takes long to start needs --timeout, a server needs --load");
      }
      return Fail(ErrorCode::kInvalid,
                  WithOutput(copy, "the program never waits for what it launches; seen: " + seen),
                  "units of work are told by the waits between launches: let it synchronise after "
                  "each");
    }
    return {};
  }

  Status Window() {
    window_ns_ = MonotonicNanoseconds();
    for (Copy& copy : copies_) {
      copy.begin = Read(copy);
      copy.middle.reset();
    }
    while (!all_ended_) {
      RETURN_IF_ERROR(Tick());
      const double elapsed_s = SecondsSince(window_ns_);
      std::uint64_t least = kBurstsMin;
      for (Copy& copy : copies_) {
        if (!copy.middle && elapsed_s >= options_.window_s / 2) copy.middle = Read(copy);
        const Reading now = Read(copy);
        least = std::min(least, now.counts.bursts - copy.begin->counts.bursts);
      }
      if (elapsed_s >= options_.window_s &&
          (least >= kBurstsMin || elapsed_s >= kWindowsMax * options_.window_s)) {
        break;
      }
    }
    return {};
  }

  // Whether the program did the same in both halves of the window. The steady state may have been
  // a regular step of its preparation.
  bool HalvesAgree() const {
    return std::ranges::all_of(copies_, [](const Copy& copy) {
      if (!copy.middle || copy.end || copy.rule.state() != SteadyState::kSteady) return true;
      const Reading end = Read(copy);
      const double a = Between(*copy.begin, *copy.middle).bursts_per_s;
      const double b = Between(*copy.middle, end).bursts_per_s;
      const std::uint64_t bursts = end.counts.bursts - copy.begin->counts.bursts;
      return bursts < kBurstsMin || std::abs(a - b) <= kHalvesTolerance * std::max(a, b);
    });
  }

  Status TakeFigures() {
    for (Copy& copy : copies_) {
      const Reading end = Read(copy);
      seen_.processes_lost += end.counts.processes_lost;
      if (copy.end || load_ended_) {
        copy.figures.window = FiguresOfWhatThereIs(copy, end);
        seen_.ended_early = true;
      } else {
        copy.figures.window = Between(*copy.begin, end);
      }
      if (copy.figures.window.bursts == 0) {
        return Fail(ErrorCode::kInvalid,
                    WithOutput(copy,
                               "the program did too little to be measured: it ended with its "
                               "first unit of work, or stopped working"),
                    "let it repeat its work for some seconds");
      }
      seen_.copies.push_back(copy.figures);
    }
    return {};
  }

  // From the window's begin to the last burst; from the first burst where that was all.
  static WindowFigures FiguresOfWhatThereIs(const Copy& copy, const Reading& end) {
    const bool in_window = copy.begin && end.counts.bursts >= copy.begin->counts.bursts + 2;
    const std::optional<Reading>& begin = in_window ? copy.begin : copy.first;
    if (!begin || end.counts.last_burst_end_ns <= begin->counts.last_burst_end_ns) return {};
    return FiguresBetween(
        begin->counts, end.counts,
        static_cast<double>(end.counts.last_burst_end_ns - begin->counts.last_burst_end_ns) / 1e9);
  }

  // Looks at everything that can happen, then waits a little.
  Status Tick() {
    if (Interrupted()) return Fail(ErrorCode::kUnavailable, "interrupted");
    for (Copy& copy : copies_) {
      copy.program->Pump();
      LookAtHeld(copy);
    }
    if (SecondsSince(memory_ns_) >= kMemoryEveryS) {
      memory_ns_ = MonotonicNanoseconds();
      LookAtMemory();
    }
    RETURN_IF_ERROR(LookAtEnds());
    pollfd interrupt{InterruptFd(), POLLIN, 0};
    ::poll(&interrupt, 1, kTickMs);
    return {};
  }

  void LookAtHeld(Copy& copy) {
    for (const int pid : copy.program->HeldPids()) {
      const auto [since, fresh] = copy.held_since_ns.emplace(pid, MonotonicNanoseconds());
      const std::map<int, Bytes> memory = meter_.ProcessMemory();
      const auto own = memory.find(pid);
      if (own != memory.end() && own->second.count > 0) {
        copy.figures.context = copy.figures.context.value_or(Bytes{}) + own->second;
        copy.program->LetGo(pid);
      } else if (SecondsSince(since->second) > kHeldForS) {
        // The driver doesn't tell processes apart here, as in a container with pids of its own.
        if (copies_.size() == 1) {
          seen_.whole_gpu_memory = true;
          copy.figures.context = std::max(free_before_ - meter_.MemoryFree(), Bytes{});
        }
        copy.program->LetGo(pid);
      }
    }
  }

  void LookAtMemory() {
    const std::map<int, Bytes> memory = meter_.ProcessMemory();
    for (Copy& copy : copies_) {
      Bytes sum;
      for (const int pid : copy.program->GpuPids()) {
        if (const auto own = memory.find(pid); own != memory.end()) sum += own->second;
      }
      if (sum.count == 0 && seen_.whole_gpu_memory) {
        sum = std::max(free_before_ - meter_.MemoryFree(), Bytes{});
      }
      if (sum.count > 0) copy.figures.peak = std::max(copy.figures.peak.value_or(Bytes{}), sum);
    }
  }

  Status LookAtEnds() {
    all_ended_ = true;
    for (Copy& copy : copies_) {
      if (!copy.end) copy.end = copy.program->Ended();
      if (!copy.end) {
        all_ended_ = false;
      } else if (!copy.end->Succeeded()) {
        return Fail(ErrorCode::kUnavailable,
                    WithOutput(copy, fmt::format("the program {}", DescribeEnd(*copy.end))));
      }
    }
    if (!load_ || load_ended_) return {};
    const std::optional<ChildEnd> end = load_->Wait(Deadline::In(0));
    load_ended_ = end.has_value();
    if (end && !end->Succeeded()) {
      return Fail(ErrorCode::kUnavailable,
                  fmt::format("the load {}: {}", DescribeEnd(*end), options_.load));
    }
    // Without its load the server stands still, and there is no window any more.
    if (load_ended_) all_ended_ = true;
    return {};
  }

  std::string WithOutput(const Copy& copy, const std::string& message) const {
    const std::string output = copy.program->LastLines();
    return output.empty() ? message + "; it printed nothing"
                          : fmt::format("{}; its last lines:\n{}", message, output);
  }

  static Reading Read(const Copy& copy) {
    return {ReadCounts(copy.program->observation()), MonotonicNanoseconds()};
  }

  static WindowFigures Between(const Reading& begin, const Reading& end) {
    return FiguresBetween(begin.counts, end.counts,
                          static_cast<double>(end.at_ns - begin.at_ns) / 1e9);
  }

  void StopAll() {
    if (load_) static_cast<void>(load_->Stop({.after_term_s = 2}));
    for (Copy& copy : copies_) copy.program->AskToStop();
    copies_.clear();
  }

  const GpuMeter& meter_;
  const RunOptions& options_;
  const Bytes free_before_;
  std::vector<Copy> copies_;
  std::optional<ChildProcess> load_;
  RunFigures seen_;
  bool all_ended_ = false;
  bool load_ended_ = false;
  std::int64_t begun_ns_ = 0;
  std::int64_t window_ns_ = 0;
  std::int64_t memory_ns_ = 0;
};

}  // namespace

double RunFigures::BurstsPerS() const {
  double sum = 0;
  for (const CopyFigures& copy : copies) sum += copy.window.bursts_per_s;
  return sum;
}

Result<RunFigures> RunProgram(const GpuMeter& meter, const RunOptions& options) {
  return ProgramRun(meter, options).Do();
}

}  // namespace sublet
