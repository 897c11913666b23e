// measure/report.h
//
// A measurement as a web page for people: one HTML file that carries its script, its style and the
// figures, and loads nothing. The page is built from web/ and compiled in.
//
//   RETURN_IF_ERROR(WriteFileAtomically(path, MeasurementReport({
//       {"measurement", MeasurementToJson(measurement)},
//       {"method", DescribeMethod(measurement)},
//       {"calibration", CalibrationToJson(calibration)},
//       {"lessons", lessons}})));
//
// What the document may have, of which only the first must be there:
//
//   measurement   sublet.measurement/v1 (model/measurement.h)
//   method        one paragraph (measure/method.h)
//   calibration   sublet.calibration/v1, with "profiles" where there are any
//   predictions   [{"run": id, "rate_per_s", "latency_ms_p50"}]: what the planner expects of that
//                 run; the rate is that of all its tenants together
//   lessons       [{"name", "statement", "passed", "measured", "required"}]: the grades of --check
//
// Thread safety: no shared state; call from any thread.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace sublet {

// Text that is not UTF-8, as another process's name may be, is shown with replacement characters.
std::string MeasurementReport(const nlohmann::ordered_json& document);

}  // namespace sublet
