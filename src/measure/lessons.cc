#include "measure/lessons.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "measure/lab_runs.h"

namespace sublet {
namespace {

// The workload whose kernels leave most of the card empty: what it loses, sharing alone costs.
constexpr std::string_view kSmall = "small";

enum class Bound { kAtLeast, kAtMost, kBelow };

struct Requirement {
  Bound bound = Bound::kAtLeast;
  double value = 0;
  std::string_view unit;  // "x", " %"
};

struct LessonText {
  std::string name;
  std::string statement;
  Requirement requirement;
};

bool Meets(const Requirement& requirement, double measured) {
  switch (requirement.bound) {
    case Bound::kAtLeast:
      return measured >= requirement.value;
    case Bound::kAtMost:
      return measured <= requirement.value;
    case Bound::kBelow:
      return measured < requirement.value;
  }
  return false;
}

std::string RequirementText(const Requirement& requirement) {
  constexpr std::string_view kWords[] = {"at least", "at most", "below"};
  return fmt::format("{} {}{}", kWords[static_cast<int>(requirement.bound)], requirement.value,
                     requirement.unit);
}

Lesson Graded(LessonText text, double measured, std::string_view detail = {}) {
  Lesson lesson{std::move(text.name), std::move(text.statement), RequirementText(text.requirement),
                fmt::format("{:.2f}{}", measured, text.requirement.unit), false};
  if (!detail.empty()) lesson.measured += fmt::format(" ({})", detail);
  lesson.passed = std::isfinite(measured) && Meets(text.requirement, measured);
  return lesson;
}

Lesson NotMeasured(LessonText text, std::string_view reason) {
  return {std::move(text.name), std::move(text.statement), RequirementText(text.requirement),
          fmt::format("not measured: {}", reason), false};
}

// Why something under `what` is missing, in the lab's own words, or `otherwise`.
std::string ReasonFor(const Measurement& measurement, std::string_view what,
                      std::string_view otherwise) {
  for (const Skipped& skipped : measurement.skipped) {
    if (skipped.what.starts_with(what)) return skipped.reason;
  }
  return std::string(otherwise);
}

// Rate alone over the rate of the slowest tenant; absent without a run alone.
std::optional<double> WorstSlowdown(const Measurement& measurement, const Run& run) {
  double worst = 0;
  for (const TenantFigures& tenant : run.tenants) {
    const Run* alone = AloneRun(measurement, tenant.workload);
    if (alone == nullptr) return std::nullopt;
    worst = std::max(worst, alone->total_per_s.value / tenant.rate_per_s.value);
  }
  return worst;
}

// Uncapped; the first of that size.
const Run* RunOf(const Measurement& measurement, SharingMode mode, std::string_view workload,
                 std::size_t copies) {
  for (const Run* run : UniformRuns(measurement, mode, workload)) {
    if (run->tenants.size() == copies && CapOf(*run) == 100) return run;
  }
  return nullptr;
}

const Run* InSeries(const Measurement& measurement, std::string_view series, int streams) {
  for (const Run& run : measurement.runs) {
    if (run.series == series && run.streams == streams && run.total_per_s.value > 0) return &run;
  }
  return nullptr;
}

Lesson TwoStreams(const Measurement& measurement) {
  LessonText text{"two-streams",
                  "two streams of one process do more work than one (small)",
                  {Bound::kAtLeast, 1.05, "x"}};
  const Run* alone = AloneRun(measurement, kSmall);
  if (alone == nullptr) return NotMeasured(std::move(text), "small was not run alone");
  for (const Run& run : measurement.runs) {
    if (run.mode != SharingMode::kStreams || run.streams != 2 || run.tenants.empty() ||
        run.tenants.front().workload != kSmall) {
      continue;
    }
    return Graded(std::move(text), run.total_per_s.value / alone->total_per_s.value);
  }
  return NotMeasured(std::move(text), ReasonFor(measurement, "streams", "no run with two streams"));
}

// The least of all workloads, each by the tenant that lost least.
Lesson TimeSlicingCosts(const Measurement& measurement) {
  LessonText text{"time-slicing-costs",
                  "two processes without MPS slow each other",
                  {Bound::kAtLeast, 1.2, "x"}};
  std::optional<double> least;
  std::string_view where;
  for (const std::string_view workload : WorkloadsIn(measurement)) {
    const Run* alone = AloneRun(measurement, workload);
    const Run* run = RunOf(measurement, SharingMode::kTimeSlicing, workload, 2);
    if (alone == nullptr || run == nullptr || workload == kCopyingWorkload) continue;
    for (const TenantFigures& tenant : run->tenants) {
      const double slowdown = alone->total_per_s.value / tenant.rate_per_s.value;
      if (least && slowdown >= *least) continue;
      least = slowdown;
      where = workload;
    }
  }
  if (!least) {
    return NotMeasured(std::move(text),
                       ReasonFor(measurement, "time-slicing", "no two processes ran without MPS"));
  }
  return Graded(std::move(text), *least, fmt::format("least: {}", where));
}

Lesson MpsSparesSmall(const Measurement& measurement, int clients) {
  LessonText text{fmt::format("mps-small-{}", clients),
                  fmt::format("{} small processes under MPS hardly slow each other", clients),
                  {Bound::kAtMost, 1.1, "x"}};
  const Run* run = RunOf(measurement, SharingMode::kMps, kSmall, static_cast<std::size_t>(clients));
  if (run == nullptr) {
    return NotMeasured(std::move(text), ReasonFor(measurement, "mps", "no such run"));
  }
  const std::optional<double> worst = WorstSlowdown(measurement, *run);
  if (!worst) return NotMeasured(std::move(text), "small was not run alone");
  return Graded(std::move(text), *worst, "slowest");
}

Lesson MemoryLimitHolds(const Measurement& measurement) {
  LessonText text{"memory-limit",
                  "a process gets the memory that its MPS limit says",
                  {Bound::kBelow, 2, " %"}};
  std::optional<double> worst;
  for (const QuotaCheck& quota : measurement.quotas) {
    if (quota.mode != SharingMode::kMps) continue;
    const double error = std::abs(quota.error_percent);
    worst = std::max(worst.value_or(0), error);
    if (quota.enforced) continue;
    Lesson lesson = Graded(std::move(text), error, fmt::format("not enforced: {}", quota.how));
    lesson.passed = false;
    return lesson;
  }
  if (!worst) {
    return NotMeasured(std::move(text), ReasonFor(measurement, "quota", "no limit was tried"));
  }
  return Graded(std::move(text), *worst, "largest error");
}

Lesson CardKeptItsSpeed(const Measurement& measurement) {
  LessonText text{
      "drift", "the card was as fast at the end as at the start", {Bound::kBelow, 5, " %"}};
  if (!measurement.drift_percent) {
    return NotMeasured(std::move(text), ReasonFor(measurement, "drift", "not run twice"));
  }
  return Graded(std::move(text), std::abs(*measurement.drift_percent));
}

void CopyOverlap(const Measurement& measurement, std::vector<Lesson>& lessons) {
  const Run* one = InSeries(measurement, "pipeline", 1);
  const Run* three = InSeries(measurement, "pipeline", 3);
  if (one == nullptr || three == nullptr) return;
  LessonText text{
      "copy-overlap", "three streams hide copies behind computing", {Bound::kAtLeast, 1.05, "x"}};
  lessons.push_back(Graded(std::move(text), three->total_per_s.value / one->total_per_s.value));
}

// Up to four tenants of one kind: more can outnumber the processor's cores, and then its scheduler
// is what is measured.
void FairSharing(const Measurement& measurement, std::vector<Lesson>& lessons) {
  std::optional<double> least;
  std::string where;
  for (const SharingMode mode : {SharingMode::kTimeSlicing, SharingMode::kMps}) {
    for (const std::string_view workload : WorkloadsIn(measurement)) {
      for (const Run* run : UniformRuns(measurement, mode, workload)) {
        if (run->tenants.size() < 2 || run->tenants.size() > 4) continue;
        if (least && run->fairness >= *least) continue;
        least = run->fairness;
        where = run->id;
      }
    }
  }
  if (!least) return;
  LessonText text{"fair-sharing",
                  "two to four equal processes get equal parts (Jain's index)",
                  {Bound::kAtLeast, 0.95, ""}};
  lessons.push_back(Graded(std::move(text), *least, fmt::format("least: {}", where)));
}

// The largest crowd of transformers that ran both ways.
void MpsOverTimeSlicing(const Measurement& measurement, std::vector<Lesson>& lessons) {
  const Run* sliced = nullptr;
  const Run* served = nullptr;
  for (const Run* run : UniformRuns(measurement, SharingMode::kTimeSlicing, "transformer")) {
    const std::size_t copies = run->tenants.size();
    const Run* other = RunOf(measurement, SharingMode::kMps, "transformer", copies);
    if (other == nullptr || copies < 4) continue;
    if (sliced != nullptr && sliced->tenants.size() >= copies) continue;
    sliced = run;
    served = other;
  }
  if (sliced == nullptr) return;
  LessonText text{
      "mps-over-time-slicing",
      fmt::format("{} transformers do more under MPS than time-sliced", sliced->tenants.size()),
      {Bound::kAtLeast, 1.2, "x"}};
  lessons.push_back(Graded(std::move(text), served->total_per_s.value / sliced->total_per_s.value));
}

void TwoServers(const Measurement& measurement, std::vector<Lesson>& lessons) {
  for (const Run& run : measurement.runs) {
    if (run.mode != SharingMode::kMps || run.servers != 2 || run.tenants.size() != 2) continue;
    if (run.tenants[0].server == run.tenants[1].server) continue;
    const std::optional<double> slowdown = WorstSlowdown(measurement, run);
    if (!slowdown) continue;
    LessonText text{"two-servers",
                    "between two MPS servers the GPU is time-sliced",
                    {Bound::kAtLeast, 1.2, "x"}};
    return lessons.push_back(Graded(std::move(text), *slowdown));
  }
}

void ServerContainsFault(const Measurement& measurement, std::vector<Lesson>& lessons) {
  int neighbours = 0;
  int survivors = 0;
  for (const FaultCheck& fault : measurement.faults) {
    if (fault.mode != SharingMode::kMps || fault.servers < 2) continue;
    neighbours += fault.neighbours;
    survivors += fault.survivors;
  }
  if (neighbours == 0) return;
  LessonText text{"server-contains-fault",
                  "a fault under one MPS server leaves the clients of the other alive",
                  {Bound::kAtLeast, 100, " %"}};
  lessons.push_back(Graded(std::move(text), 100.0 * survivors / neighbours,
                           fmt::format("{} of {}", survivors, neighbours)));
}

}  // namespace

std::vector<Lesson> GradeLessons(const Measurement& measurement) {
  std::vector<Lesson> lessons{TwoStreams(measurement),        TimeSlicingCosts(measurement),
                              MpsSparesSmall(measurement, 2), MpsSparesSmall(measurement, 4),
                              MemoryLimitHolds(measurement),  CardKeptItsSpeed(measurement)};
  CopyOverlap(measurement, lessons);
  FairSharing(measurement, lessons);
  MpsOverTimeSlicing(measurement, lessons);
  TwoServers(measurement, lessons);
  ServerContainsFault(measurement, lessons);
  return lessons;
}

nlohmann::ordered_json LessonsToJson(const std::vector<Lesson>& lessons) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const Lesson& lesson : lessons) {
    json.push_back({{"name", lesson.name},
                    {"statement", lesson.statement},
                    {"passed", lesson.passed},
                    {"measured", lesson.measured},
                    {"required", lesson.required}});
  }
  return json;
}

}  // namespace sublet
