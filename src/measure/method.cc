#include "measure/method.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "measure/stopping_rule.h"

namespace sublet {
namespace {

// "6 to 12", or "6" where both are.
std::string Span(double low, double high) {
  return low == high ? fmt::format("{:.0f}", low) : fmt::format("{:.0f} to {:.0f}", low, high);
}

std::string RunsText(const Measurement& measurement) {
  if (measurement.runs.empty()) return "Nothing was run.";
  int settled = 0;
  double rounds_min = std::numeric_limits<double>::infinity();
  double rounds_max = 0;
  double ms_min = std::numeric_limits<double>::infinity();
  double ms_max = 0;
  for (const Run& run : measurement.runs) {
    settled += run.settled ? 1 : 0;
    rounds_min = std::min(rounds_min, static_cast<double>(run.rounds));
    rounds_max = std::max(rounds_max, static_cast<double>(run.rounds));
    ms_min = std::min(ms_min, run.round_ms);
    ms_max = std::max(ms_max, run.round_ms);
  }
  return fmt::format(
      "Here: {} runs in {:.0f} s, of {} rounds of {} ms each; {} settled. The order "
      "of the modes was shuffled with seed {}.",
      measurement.runs.size(), measurement.duration_s, Span(rounds_min, rounds_max),
      Span(ms_min, ms_max),
      settled == static_cast<int>(measurement.runs.size()) ? std::string("all")
                                                           : fmt::format("{} of them", settled),
      measurement.seed);
}

std::string DriftText(const Measurement& measurement) {
  if (!measurement.drift_percent) {
    return " The runs alone were not repeated at the end, so a drift would not have been seen.";
  }
  const double drift = *measurement.drift_percent;
  return fmt::format(" At the end the workloads alone were at most {:.1f} % {} than at the start.",
                     drift < 0 ? -drift : drift, drift < 0 ? "faster" : "slower");
}

// What a reader must know before believing the figures.
std::string Caveats(const Measurement& measurement) {
  std::string text;
  if (measurement.simulated) {
    text += " The GPU was simulated: times are those of a model of the card, not of a card.";
  }
  if (measurement.disturbed) {
    text += fmt::format(" Other processes were on the GPU ({}), so the figures err.",
                        fmt::join(measurement.disturbed_by, "; "));
  }
  if (measurement.partial) text += " The measurement ended early and is not complete.";
  return text;
}

}  // namespace

std::string DescribeMethod(std::string_view effort) {
  const StoppingOptions options = StoppingOptionsFor(effort);
  return fmt::format(
      "Every tenant is a process with a CUDA context of its own and always busy: it launches a "
      "unit of work, waits for it, and launches the next. All tenants of a run start together "
      "from a barrier and work through a warm-up that is not counted, then through a window "
      "that is; that is one round. A rate is the median over {} to {} rounds, with the "
      "interval that holds the true median with 95 %. A run has settled, and ends, when half "
      "that interval is at most {:g} % of the median and the older and the newer half of its "
      "rounds differ by at most {:g} %. Latencies are of single units, from launch to the end "
      "of the wait: p50 and p99 are taken in each round and are the medians of all rounds, the "
      "maximum is that of all; of a tenant with fewer than a hundred units in a round the p99 is "
      "that "
      "round's slowest unit. The workloads run alone first, because every slowdown refers to "
      "that, and once more at the end; what lies between is in an order shuffled by a seed.",
      options.rounds_min, options.rounds_max, 100 * options.half_width_max,
      100 * options.trend_max);
}

std::string DescribeMethod(const Measurement& measurement) {
  // A file may come from a version with other efforts; the numbers that follow are its own.
  const bool known = measurement.effort == "quick" || measurement.effort == "full";
  std::string text = known ? DescribeMethod(measurement.effort) + " " : std::string();
  return text + RunsText(measurement) + DriftText(measurement) + Caveats(measurement);
}

}  // namespace sublet
