// measure/tests/h200_measurement.h
//
// A measurement as one NVIDIA H200 gave it, for tests: the rates of
// docs/operating/latency-model.md, everything else filled in as the lab does.
//
// Thread safety: values.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "model/measurement.h"

namespace sublet {

struct UniformRun {
  SharingMode mode = SharingMode::kExclusive;
  std::string_view series;
  std::string_view workload;
  int copies = 1;
  double total_per_s = 0;
  std::optional<int> sm_percent;
};

// A run whose tenants are all alike: each has an equal part of the total and a process as large as
// a context on the H200 with that cap plus the workload's buffers.
Run MakeRun(const UniformRun& run);

Measurement H200Measurement();

}  // namespace sublet
