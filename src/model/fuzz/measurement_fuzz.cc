// Any bytes as a measurement: they are refused with a message that has a place, or read into a
// measurement that writing and reading again gives back.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/check.h"
#include "model/measurement.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto measurement = sublet::ParseMeasurement(text, "fuzz");
  if (!measurement) {
    CHECK(measurement.error().code == sublet::ErrorCode::kInvalid);
    CHECK(measurement.error().message.starts_with("fuzz:"));
    return 0;
  }
  for (const sublet::Run& run : measurement->runs) {
    CHECK(!run.tenants.empty());
    CHECK(measurement->Find(run.id) == &run);
  }
  const std::string written = sublet::MeasurementToJson(*measurement).dump();
  const auto again = sublet::ParseMeasurement(written, "again");
  CHECK(again.has_value());
  CHECK(sublet::MeasurementToJson(*again).dump() == written);
  return 0;
}
