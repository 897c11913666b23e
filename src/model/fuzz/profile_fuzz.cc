// Any bytes as a workload profile or a calibration: they are refused with a message, or read into
// values that writing and reading again gives back, and whose curves are what the planner needs.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/check.h"
#include "model/calibration.h"

namespace {

void CheckProfile(const sublet::WorkloadProfile& profile) {
  double before = 0;
  for (int percent = 0; percent <= 100; ++percent) {
    const double speed = profile.SpeedAt(percent);
    CHECK(speed >= before && speed <= 1);
    before = speed;
    const auto crowd = profile.CrowdAt(percent);
    CHECK(!crowd || (std::isfinite(*crowd) && *crowd >= 0));
    const double sharpness = profile.SharpnessAt(percent);
    CHECK(sharpness >= sublet::kSharpnessMin - 1e-9 && sharpness <= sublet::kSharpnessMax + 1e-9);
  }
  CHECK(before == 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto profile = sublet::ParseProfileNamed(text, "fuzz", "");
  if (!profile) {
    CHECK(profile.error().code == sublet::ErrorCode::kInvalid);
    CHECK(profile.error().message.find("fuzz") != std::string::npos);
  } else {
    CheckProfile(*profile);
  }
  if (const auto calibration = sublet::ParseCalibration(text, "fuzz")) {
    const std::string written = sublet::CalibrationToJson(*calibration).dump();
    const auto again = sublet::ParseCalibration(written, "again");
    CHECK(again.has_value());
    CHECK(sublet::CalibrationToJson(*again).dump() == written);
  }
  if (const auto alone = sublet::ParseWorkloadProfile(text, "fuzz")) {
    const std::string written = sublet::WorkloadProfileToJson(*alone).dump();
    const auto again = sublet::ParseWorkloadProfile(written, "again");
    CHECK(again.has_value());
    CHECK(sublet::WorkloadProfileToJson(*again).dump() == written);
  }
  return 0;
}
