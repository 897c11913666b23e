#include "measure/lab_runs.h"

#include <algorithm>

#include "measure/workload.h"

namespace sublet {

const Run* AloneRun(const Measurement& measurement, std::string_view workload) {
  for (const std::string_view series : {"alone", "drift"}) {
    for (const Run& run : measurement.runs) {
      if (run.series == series && run.mode == SharingMode::kExclusive && run.streams == 1 &&
          run.tenants.size() == 1 && run.tenants.front().workload == workload &&
          run.total_per_s.value > 0) {
        return &run;
      }
    }
  }
  return nullptr;
}

std::vector<const Run*> UniformRuns(const Measurement& measurement, SharingMode mode,
                                    std::string_view workload) {
  std::vector<const Run*> runs;
  for (const Run& run : measurement.runs) {
    if (run.mode == mode && run.servers == 1 && run.streams == 1 && !run.tenants.empty() &&
        run.tenants.front().workload == workload && run.IsUniform() && run.total_per_s.value > 0) {
      runs.push_back(&run);
    }
  }
  return runs;
}

int CapOf(const Run& run) {
  return run.tenants.front().sm_percent.value_or(100);
}

std::optional<Bytes> BuffersOf(std::string_view workload, int streams) {
  const WorkloadFacts* facts = FindWorkload(workload);
  if (facts == nullptr) return std::nullopt;
  return facts->memory + facts->memory_per_stream * (streams - 1);
}

std::vector<std::string_view> WorkloadsIn(const Measurement& measurement) {
  std::vector<std::string_view> names;
  for (const Run& run : measurement.runs) {
    for (const TenantFigures& tenant : run.tenants) {
      if (std::find(names.begin(), names.end(), tenant.workload) == names.end()) {
        names.push_back(tenant.workload);
      }
    }
  }
  return names;
}

}  // namespace sublet
