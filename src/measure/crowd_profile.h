// measure/crowd_profile.h
//
// A lab workload's profile from its runs under MPS: alone and in a crowd, under each SM cap.
//
// Thread safety: no shared state; pure.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/calibration.h"
#include "model/measurement.h"
#include "model/workload_profile.h"

namespace sublet {

// The profile of `workload` in `measurement`. Board, source and, where the lab couldn't see a
// process's memory, contexts come from `calibration`. Fails with kNotFound, saying what is missing,
// where the workload was not run alone under at least two caps, 100 % among them.
//
// `crowd` is the number of copies that was run under most caps, of several the largest. Sharpness
// is the one of those through each smaller crowd that comes closest to them all (CrowdSharpness()).
Result<WorkloadProfile> ProfileFromLab(const Measurement& measurement, std::string_view workload,
                                       const Calibration& calibration);

// The sharpness whose curve through `crowd` comes closest to all of `fewer`, by the squares of the
// logarithms of its errors, among those that meet one of `fewer` exactly. Absent where there is
// none or the crowd shows no slowdown. REQUIRES: as FitSharpness() for each of `fewer`.
std::optional<double> CrowdSharpness(double alone_per_s, const std::vector<CrowdRate>& fewer,
                                     const CrowdRate& crowd);

}  // namespace sublet
