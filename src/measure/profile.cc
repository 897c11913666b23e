#include "measure/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/interrupt.h"

namespace sublet {
namespace {

// Longer than NVML takes to show a new context; the watcher lets go as soon as it has.
constexpr int kHoldMs = 1000;
// With fewer than this there is no smaller crowd between one and all to see the curve's bend by.
constexpr int kCopiesForSharpness = 4;

Bytes Larger(Bytes a, Bytes b) {
  return std::max(a, b);
}

class Sweep {
 public:
  Sweep(const GpuMeter& meter, const ProfileRequest& request,
        const std::function<void(double, const std::string&)>& progress)
      : meter_(meter), request_(request), progress_(progress), free_(meter.MemoryFree()) {}

  Result<ProfileOutcome> Do() {
    CHECK(!request_.sm_percents.empty() && request_.sm_percents.back() == 100);
    WorkloadProfile& profile = outcome_.profile;
    profile.name = request_.name;
    profile.board = request_.board;
    profile.source = request_.source;
    profile.unit = request_.unit;
    profile.steps = request_.steps;
    const bool mps = !request_.mps_pipe_directory.empty();
    const int runs_a_cap = 1 + (request_.copies > 0 ? 1 : 0) + (Few() > 0 ? 1 : 0);
    runs_ = 1 + (mps ? runs_a_cap * static_cast<int>(request_.sm_percents.size()) : 0);
    ASSIGN_OR_RETURN(const RunFigures alone, Run("without MPS", std::nullopt, 1));
    NoteOn("without MPS", alone);
    const WindowFigures& window = alone.copies[0].window;
    profile.service_ms = window.latency_ms_p50 * request_.steps;
    profile.copy_to_device_mib_s = window.to_device_mib_s;
    profile.copy_from_device_mib_s = window.from_device_mib_s;
    if (mps) {
      RETURN_IF_ERROR(SweepCaps());
    } else {
      Note(fmt::format("no MPS, so one point without a cap: {}", request_.no_mps));
      TakeMemory(alone.copies[0]);
      profile.points = {PointOf(100, alone)};
    }
    std::ranges::reverse(profile.points);
    return std::move(outcome_);
  }

 private:
  Status SweepCaps() {
    WorkloadProfile& profile = outcome_.profile;
    for (auto cap = request_.sm_percents.rbegin(); cap != request_.sm_percents.rend(); ++cap) {
      const std::string at =
          *cap == 100 ? "MPS, no cap" : fmt::format("MPS, {} % of the SMs", *cap);
      Result<RunFigures> alone = Run(at, *cap, 1);
      if (!alone) {
        if (*cap == 100) return Refused(at, std::move(alone).error());
        if (Interrupted()) break;
        Note(fmt::format("{}: left out: {}", at, alone.error().message));
        continue;
      }
      NoteOn(at, *alone);
      if (*cap == 100) TakeMemory(alone->copies[0]);
      profile.points.push_back(PointOf(*cap, *alone));
      if (request_.copies > 0) MeasureCrowd(at, *alone, profile.points.back());
      if (Interrupted()) break;
    }
    const bool crowd = std::ranges::any_of(
        profile.points, [](const ProfilePoint& point) { return point.crowd_per_s.has_value(); });
    if (crowd) profile.crowd = request_.copies;
    if (Interrupted()) {
      profile.source += ", interrupted";
      Note("interrupted: what is missing was not measured");
    }
    return {};
  }

  static tl::unexpected<Error> Refused(const std::string& at, Error error) {
    return tl::unexpected<Error>(std::move(error).Prefixed(at));
  }

  // A crowd that can't be had leaves the point without one.
  void MeasureCrowd(const std::string& at, const RunFigures& alone, ProfilePoint& point) {
    const Bytes each = alone.copies[0].peak.value_or(Bytes{});
    if (each * request_.copies > free_) {
      Note(fmt::format("{}: no crowd: {} copies of {} don't fit into {}", at, request_.copies,
                       FormatBytes(each), FormatBytes(free_)));
      return;
    }
    std::optional<CrowdRate> few;
    if (Few() > 0) few = CrowdOf(at, point.sm_percent, Few());
    if (Interrupted()) return;
    const std::optional<CrowdRate> all = CrowdOf(at, point.sm_percent, request_.copies);
    if (!all) return;
    point.crowd_per_s = all->per_s;
    if (!few) return;
    point.sharpness = FitSharpness(point.alone_per_s, *few, *all);
    if (point.sm_percent == 100) outcome_.profile.sharpness = point.sharpness;
  }

  std::optional<CrowdRate> CrowdOf(const std::string& at, int cap, int copies) {
    const std::string what = fmt::format("{}, {} copies", at, copies);
    const Result<RunFigures> seen = Run(what, cap, copies);
    if (!seen) {
      if (!Interrupted()) Note(fmt::format("{}: left out: {}", what, seen.error().message));
      return std::nullopt;
    }
    if (seen->ended_early) {
      Note(fmt::format("{}: left out: some copies ended by themselves", what));
      return std::nullopt;
    }
    NoteOn(what, *seen);
    return CrowdRate{copies, seen->BurstsPerS() / request_.steps};
  }

  // The smaller crowd: about the middle between one and all, as ratios go.
  int Few() const {
    if (request_.copies < kCopiesForSharpness) return 0;
    return static_cast<int>(std::lround(std::sqrt(request_.copies)));
  }

  Result<RunFigures> Run(const std::string& what, std::optional<int> cap, int copies) {
    progress_(static_cast<double>(done_) / runs_, what);
    ++done_;
    RunOptions options;
    options.program = request_.program;
    options.program.hold_ms = kHoldMs;
    options.copies = copies;
    options.load = request_.load;
    options.ready = request_.ready;
    options.window_s = request_.window_s;
    options.timeout_s = request_.timeout_s;
    if (cap) {
      options.program.place.mps_pipe_directory = request_.mps_pipe_directory;
      if (*cap < 100) options.program.place.sm_percent = cap;
      options.confirm = request_.confirm_clients;
    }
    return RunProgram(meter_, options);
  }

  ProfilePoint PointOf(int cap, const RunFigures& seen) const {
    const CopyFigures& copy = seen.copies[0];
    ProfilePoint point;
    point.sm_percent = cap;
    point.alone_per_s = copy.window.bursts_per_s / request_.steps;
    point.latency_ms_p50 = copy.window.latency_ms_p50 * request_.steps;
    point.latency_ms_p99 = copy.window.latency_ms_p99 * request_.steps;
    const Bytes beyond = Larger(copy.peak.value_or(Bytes{}) - outcome_.profile.memory, Bytes{});
    point.context = Larger(copy.context.value_or(Bytes{}), beyond);
    return point;
  }

  void TakeMemory(const CopyFigures& copy) {
    if (!copy.peak) {
      Note("memory: unknown, the driver doesn't tell");
      return;
    }
    if (!copy.context) Note("memory: the context could not be told from the rest");
    outcome_.profile.memory = Larger(*copy.peak - copy.context.value_or(Bytes{}), Bytes{});
  }

  void NoteOn(const std::string& what, const RunFigures& seen) {
    if (seen.ended_early) {
      Note(fmt::format("{}: the program ended by itself; figures of {:.1f} s", what,
                       seen.copies[0].window.seconds));
    }
    if (!seen.settled && !seen.ended_early) {
      Note(fmt::format("{}: it never became steady; figures of {:.1f} s", what,
                       seen.copies[0].window.seconds));
    }
    if (seen.processes_lost > 0) {
      Note(
          fmt::format("{}: {} processes more than the {} that can be watched; what they did is "
                      "not in the figures",
                      what, seen.processes_lost, guard::kObservedProcessesMax));
    }
    if (seen.whole_gpu_memory) {
      Note(
          "memory: of the whole GPU, less what was used before, because the driver doesn't tell "
          "processes apart");
    }
    if (static_cast<int>(seen.copies.size()) > request_.cpu_cores && request_.cpu_cores > 0) {
      Note(fmt::format("{} copies on {} processors wait for these too", seen.copies.size(),
                       request_.cpu_cores));
    }
  }

  void Note(std::string text) {
    if (noted_.insert(text).second) outcome_.notes.push_back(std::move(text));
  }

  const GpuMeter& meter_;
  const ProfileRequest& request_;
  const std::function<void(double, const std::string&)>& progress_;
  const Bytes free_;
  ProfileOutcome outcome_;
  std::set<std::string> noted_;
  int runs_ = 1;
  int done_ = 0;
};

}  // namespace

Result<ProfileOutcome> ProfileProgram(
    const GpuMeter& meter, const ProfileRequest& request,
    const std::function<void(double done, const std::string& now)>& progress) {
  return Sweep(meter, request, progress).Do();
}

Result<std::vector<int>> ParseSmPercents(std::string_view text) {
  std::set<int> percents = {100};
  while (true) {
    const std::size_t comma = std::min(text.find(','), text.size());
    const std::string_view word = text.substr(0, comma);
    int percent = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), percent);
    if (error != std::errc() || end != word.data() + word.size() || percent < 1 || percent > 100) {
      return Fail(ErrorCode::kUsage, fmt::format("--sm: not a percentage of 1 to 100: '{}'", word),
                  "as in --sm 10,25,50,100");
    }
    percents.insert(percent);
    if (comma == text.size()) break;
    text.remove_prefix(comma + 1);
  }
  return std::vector<int>(percents.begin(), percents.end());
}

std::string NameOfProgram(const std::vector<std::string>& argv) {
  const auto base = [](std::string_view path) {
    return std::string(path.substr(path.rfind('/') + 1));
  };
  std::string name = argv.empty() ? "program" : base(argv[0]);
  const bool interpreter = name.starts_with("python") || name == "bash" || name == "sh";
  if (interpreter && argv.size() > 1 && !argv[1].starts_with('-')) name = base(argv[1]);
  if (const std::size_t dot = name.rfind('.'); dot != std::string::npos && dot > 0) {
    name.erase(dot);
  }
  // A fleet names a profile by it.
  for (char& c : name) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!plain && c != '_' && c != '-' && c != '.') c = '-';
  }
  return name.empty() ? "program" : name;
}

}  // namespace sublet
