#include "measure/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/terminal.h"
#include "measure/lab_runs.h"

namespace sublet {
namespace {

constexpr int kWidth = 96;
constexpr int kLabel = 22;  // Columns of a row's name.
constexpr int kFigure = 9;  // And of each figure.
constexpr int kBar = 24;
constexpr double kPredictionError = 15;  // Percent; more is worth a look.
constexpr int kSkippedMax = 8;           // The report has the rest.

// The workload whose replicas are counted: the model-like one where the GPU can run it.
std::string_view CountedWorkload(const Measurement& seen) {
  return AloneRun(seen, "transformer") != nullptr ? "transformer" : "small";
}

// A way to run several copies of a workload: what has a row of its own.
struct Mode {
  SharingMode mode = SharingMode::kTimeSlicing;
  int cap = 100;
  friend auto operator<=>(const Mode&, const Mode&) = default;
};

std::string NameOf(const Mode& mode) {
  if (mode.mode != SharingMode::kMps) return std::string(SharingModeName(mode.mode));
  return mode.cap == 100 ? "MPS" : fmt::format("MPS, {} % of SMs", mode.cap);
}

class Summary {
 public:
  Summary(const Measurement& seen, const std::vector<Forecast>& forecasts,
          const std::vector<Lesson>& lessons, bool colour)
      : seen_(seen),
        forecasts_(forecasts),
        lessons_(lessons),
        paint_(colour),
        counted_(CountedWorkload(seen)) {
    for (const SharingMode mode : {SharingMode::kTimeSlicing, SharingMode::kMps}) {
      for (const Run* run : UniformRuns(seen, mode, counted_)) {
        rows_[{mode, CapOf(*run)}][static_cast<int>(run->tenants.size())] = run;
      }
    }
  }

  std::string Text() {
    Head();
    Answer();
    Scaling();
    Sweep();
    Predictions();
    Neighbours();
    Limits();
    Grades();
    Missing();
    return std::move(out_);
  }

 private:
  void Line(const std::string& text) { out_ += text + "\n"; }

  void Title(const std::string& text) { out_ += "\n" + paint_.Bold(text) + "\n"; }

  void Head() {
    std::string facts = fmt::format("{} effort, {:.0f} s, {} runs", seen_.effort, seen_.duration_s,
                                    seen_.runs.size());
    if (seen_.drift_percent) facts += fmt::format(", drift {:.1f} %", *seen_.drift_percent);
    Line(fmt::format("{}  {}", paint_.Bold(seen_.gpu_name),
                     paint_.Dim(fmt::format("driver {}; {}", seen_.driver_version, facts))));
    if (seen_.simulated) Line(paint_.Dim("on a simulated GPU: its model of the card, in its time"));
    if (seen_.partial) Line(paint_.Bad("partial: the end was not reached"));
    if (seen_.disturbed) {
      Line(paint_.Bad(WrappedText(
          fmt::format("disturbed by {}", fmt::join(seen_.disturbed_by, "; ")), 0, kWidth)));
    }
  }

  // The fastest way to run many, and what it is worth.
  void Answer() {
    const Run* best = nullptr;
    Mode best_mode;
    for (const auto& [mode, sizes] : rows_) {
      for (const auto& [size, run] : sizes) {
        if (size > 1 && (best == nullptr || run->total_per_s.value > best->total_per_s.value)) {
          best = run;
          best_mode = mode;
        }
      }
    }
    const Run* const alone = AloneRun(seen_, counted_);
    if (best == nullptr || alone == nullptr) return;
    const int size = static_cast<int>(best->tenants.size());
    std::string text = fmt::format("{} {} replicas under {}: {} a second, {:.1f}x one alone", size,
                                   counted_, NameOf(best_mode), Grouped(best->total_per_s.value),
                                   best->total_per_s.value / alone->total_per_s.value);
    const auto sliced = rows_.find({SharingMode::kTimeSlicing, 100});
    if (sliced != rows_.end() && sliced->second.contains(size)) {
      text += fmt::format(" and {:.1f}x time-slicing",
                          best->total_per_s.value / sliced->second.at(size)->total_per_s.value);
    }
    Title(WrappedText(text, 0, kWidth));
  }

  std::set<int> Sizes() const {
    std::set<int> sizes;
    for (const auto& [mode, runs] : rows_) {
      if (runs.size() < 3) continue;  // A sweep's points; they have a table of their own.
      for (const auto& [size, run] : runs) sizes.insert(size);
    }
    return sizes;
  }

  static double P50Of(const Run& run) { return Middle(run, &TenantFigures::latency_ms_p50); }
  static double P99Of(const Run& run) {
    double worst = 0;
    for (const TenantFigures& tenant : run.tenants) worst = std::max(worst, tenant.latency_ms_p99);
    return worst;
  }
  static double Middle(const Run& run, double TenantFigures::*figure) {
    std::vector<double> values;
    for (const TenantFigures& tenant : run.tenants) values.push_back(tenant.*figure);
    std::ranges::sort(values);
    return values[values.size() / 2];
  }

  void Scaling() {
    const std::set<int> sizes = Sizes();
    const Run* const alone = AloneRun(seen_, counted_);
    if (sizes.empty() || alone == nullptr) return;
    Title(fmt::format("{} replicas, always busy: all together a second, and p50 of one", counted_));
    std::string head = PaddedRight("", kLabel);
    for (const int size : sizes) head += PaddedLeft(fmt::format("x{}", size), kFigure);
    Line(paint_.Dim(head + PaddedLeft("MiB each", kFigure + 2)));
    for (const auto& [mode, runs] : rows_) {
      if (runs.size() < 3) continue;
      std::string rates = PaddedRight("  " + NameOf(mode), kLabel);
      std::string latencies = PaddedRight("", kLabel);
      for (const int size : sizes) {
        const Run* run = runs.contains(size) ? runs.at(size) : size == 1 ? alone : nullptr;
        rates += PaddedLeft(run == nullptr ? "-" : Grouped(run->total_per_s.value), kFigure);
        latencies += PaddedLeft(run == nullptr ? "" : ThreeDigits(P50Of(*run)) + " ms", kFigure);
      }
      const auto memory = runs.rbegin()->second->tenants[0].memory;
      rates += PaddedLeft(memory ? Grouped(static_cast<double>(memory->mib())) : "-", kFigure + 2);
      Line(rates);
      Line(paint_.Dim(latencies));
    }
  }

  void Sweep() {
    std::vector<std::pair<int, const std::map<int, const Run*>*>> caps;
    double most = 0;
    for (const auto& [mode, runs] : rows_) {
      if (mode.mode != SharingMode::kMps || runs.empty()) continue;
      caps.emplace_back(mode.cap, &runs);
      most = std::max(most, CrowdOf(runs)->total_per_s.value);
    }
    if (caps.size() < 3 || most <= 0) return;
    Title(
        fmt::format("SM cap under MPS: a crowd of {} replicas a second, and one alone", counted_));
    for (const auto& [cap, runs] : caps) {
      const Run* const crowd = CrowdOf(*runs);
      const auto single = runs->find(1);
      Line(fmt::format(
          "  {:>3} %  {} {:>7}  {}  {}", cap,
          paint_.Series(0, PaddedRight(BarText(crowd->total_per_s.value / most, kBar), kBar)),
          Grouped(crowd->total_per_s.value), paint_.Dim(fmt::format("x{}", crowd->tenants.size())),
          single == runs->end() ? ""
                                : paint_.Dim(fmt::format("alone {:>6}, {:.2f} ms",
                                                         Grouped(single->second->total_per_s.value),
                                                         P50Of(*single->second)))));
    }
  }

  // Of the crowds that were run under every cap, the largest; else the largest there is.
  const Run* CrowdOf(const std::map<int, const Run*>& runs) const {
    std::map<int, int> counts;
    int caps = 0;
    for (const auto& [mode, all] : rows_) {
      if (mode.mode != SharingMode::kMps) continue;
      ++caps;
      for (const auto& [size, run] : all) ++counts[size];
    }
    for (auto it = counts.rbegin(); it != counts.rend(); ++it) {
      if (it->second == caps && runs.contains(it->first)) return runs.at(it->first);
    }
    return runs.rbegin()->second;
  }

  // How well the planner knows this card.
  void Predictions() {
    if (forecasts_.empty()) return;
    Title("What the planner's model expects, and what was measured");
    Line(paint_.Dim(PaddedRight("", kLabel + 10) + PaddedLeft("expected", kFigure + 2) +
                    PaddedLeft("measured", kFigure + 2) + PaddedLeft("error", kFigure) +
                    PaddedLeft("p50 ms", kFigure + 2) + PaddedLeft("measured", kFigure + 2) +
                    PaddedLeft("error", kFigure)));
    for (const Forecast& forecast : forecasts_) {
      const Run* const run = seen_.Find(forecast.run);
      if (run == nullptr || run->total_per_s.value <= 0) continue;
      const double p50 = P50Of(*run);
      const auto error = [&](double expected, double measured) {
        const double percent = 100 * (expected / measured - 1);
        const std::string text = PaddedLeft(fmt::format("{:+.1f} %", percent), kFigure);
        return std::abs(percent) > kPredictionError ? paint_.Bad(text) : text;
      };
      Line(PaddedRight("  " + forecast.run + (forecast.given ? " *" : ""), kLabel + 10) +
           PaddedLeft(Grouped(forecast.rate_per_s), kFigure + 2) +
           PaddedLeft(Grouped(run->total_per_s.value), kFigure + 2) +
           error(forecast.rate_per_s, run->total_per_s.value) +
           PaddedLeft(ThreeDigits(forecast.latency_ms_p50), kFigure + 2) +
           PaddedLeft(ThreeDigits(p50), kFigure + 2) + error(forecast.latency_ms_p50, p50));
    }
    Line(paint_.Dim("  * the model was fitted to this run"));
  }

  void Neighbours() {
    for (const SharingMode mode : {SharingMode::kTimeSlicing, SharingMode::kMps}) {
      std::map<std::pair<std::string, std::string>, double> factor;
      std::vector<std::string> names;
      for (const Run& run : seen_.runs) {
        if (run.series != "pair" || run.mode != mode || run.tenants.size() != 2) continue;
        for (int i = 0; i < 2; ++i) {
          const TenantFigures& one = run.tenants[static_cast<std::size_t>(i)];
          const TenantFigures& other = run.tenants[static_cast<std::size_t>(1 - i)];
          const Run* const alone = AloneRun(seen_, one.workload);
          if (alone == nullptr || alone->tenants[0].latency_ms_p99 <= 0) continue;
          factor[{one.workload, other.workload}] =
              one.latency_ms_p99 / alone->tenants[0].latency_ms_p99;
          if (std::ranges::find(names, one.workload) == names.end()) names.push_back(one.workload);
        }
      }
      if (factor.empty()) continue;
      Title(fmt::format("p99 beside one neighbour, over p99 alone: {}", NameOf({mode, 100})));
      std::string head = PaddedRight("", kLabel);
      for (const std::string& name : names) head += PaddedLeft(name, kFigure + 3);
      Line(paint_.Dim(head));
      for (const std::string& row : names) {
        std::string text = PaddedRight("  " + row, kLabel);
        for (const std::string& column : names) {
          const auto it = factor.find({row, column});
          const std::string cell =
              PaddedLeft(it == factor.end() ? "-" : ThreeDigits(it->second) + "x", kFigure + 3);
          text += it != factor.end() && it->second > 2 ? paint_.Bad(cell) : cell;
        }
        Line(text);
      }
    }
  }

  void Limits() {
    if (!seen_.quotas.empty()) Title("Memory limits");
    for (const QuotaCheck& quota : seen_.quotas) {
      const std::string verdict =
          quota.enforced ? paint_.Good(fmt::format("holds, {:+.1f} %", quota.error_percent))
                         : paint_.Bad(fmt::format("not enforced, {:+.0f} %", quota.error_percent));
      Line(fmt::format("  {} MiB: {} MiB could be had beside a context of {} MiB; {}",
                       Grouped(static_cast<double>(quota.limit.mib())),
                       Grouped(static_cast<double>(quota.allocated.mib())), quota.context.mib(),
                       verdict));
    }
    if (!seen_.faults.empty()) Title("When a neighbour misbehaves");
    for (const FaultCheck& fault : seen_.faults) {
      const bool all = fault.survivors == fault.neighbours;
      const std::string text =
          fmt::format("{} of {} go on{}", fault.survivors, fault.neighbours,
                      fault.survivors > 0
                          ? fmt::format(", longest pause {} ms", ThreeDigits(fault.pause_ms_max))
                          : "");
      Line(fmt::format("  {:<16} {:<14} {}",
                       fault.servers > 1 ? "two MPS servers" : NameOf({fault.mode, 100}),
                       fault.fault, all ? paint_.Good(text) : paint_.Bad(text)));
    }
  }

  void Grades() {
    Title("Lessons");
    for (const Lesson& lesson : lessons_) {
      Line(fmt::format("  {} {}", lesson.passed ? paint_.Good("✓") : paint_.Bad("✗"),
                       WrappedText(fmt::format("{}: {}, required {}", lesson.statement,
                                               lesson.measured, lesson.required),
                                   4, kWidth)));
    }
  }

  void Missing() {
    if (seen_.skipped.empty()) return;
    Title("Not measured");
    int shown = 0;
    for (const Skipped& skipped : seen_.skipped) {
      if (++shown > kSkippedMax) break;
      Line("  " + WrappedText(skipped.what + ": " + skipped.reason, 2, kWidth));
    }
    const int more = static_cast<int>(seen_.skipped.size()) - kSkippedMax;
    if (more > 0) Line(paint_.Dim(fmt::format("  and {} more", more)));
  }

  const Measurement& seen_;
  const std::vector<Forecast>& forecasts_;
  const std::vector<Lesson>& lessons_;
  const Painter paint_;
  const std::string_view counted_;
  std::map<Mode, std::map<int, const Run*>> rows_;  // By mode, by number of replicas.
  std::string out_;
};

}  // namespace

std::string MeasurementSummary(const Measurement& seen, const std::vector<Forecast>& forecasts,
                               const std::vector<Lesson>& lessons, const MeasurementStyle& style) {
  return Summary(seen, forecasts, lessons, style.colour).Text();
}

}  // namespace sublet
