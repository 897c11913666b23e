// measure/lab_runs.h
//
// Which runs of a measurement say what: the questions that calibrating and grading both ask.
//
// Answers come from the runs' fields, never from their ids.
//
//   const Run* alone = AloneRun(measurement, "small");
//   for (const Run* run : UniformRuns(measurement, SharingMode::kMps, "small")) ...
//
// Thread safety: values; pointers are into the measurement.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "model/measurement.h"

namespace sublet {

// Its units copy between host and device. Copy engines work beside the SMs, another process's
// copies beside one's own kernels, so what holds for kernels under time-slicing and SM caps doesn't
// hold for it.
inline constexpr std::string_view kCopyingWorkload = "transfer";

// The workload alone on the GPU without MPS: the first of series "alone", else of "drift"; nullptr
// where there is none, or it did nothing.
const Run* AloneRun(const Measurement& measurement, std::string_view workload);

// Runs in `mode` with one kind of tenant: the same workload and cap, one stream each, one server,
// and at least one unit done. In the order of the measurement.
std::vector<const Run*> UniformRuns(const Measurement& measurement, SharingMode mode,
                                    std::string_view workload);

// 100 for no cap. REQUIRES: a run of UniformRuns().
int CapOf(const Run& run);

// The workload's own memory with that many streams; absent for a workload that this lab hasn't got.
std::optional<Bytes> BuffersOf(std::string_view workload, int streams);

// Every workload that ran, in the order of the measurement.
std::vector<std::string_view> WorkloadsIn(const Measurement& measurement);

}  // namespace sublet
