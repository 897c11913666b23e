// Any bytes as a plan: they are refused with a message that has a place, or read into a plan that
// writing and reading again gives back.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/check.h"
#include "model/plan.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto plan = sublet::ParsePlan(text, "fuzz");
  if (!plan) {
    CHECK(plan.error().code == sublet::ErrorCode::kInvalid);
    CHECK(plan.error().message.starts_with("fuzz:"));
    return 0;
  }
  const std::string written = sublet::PlanToJson(*plan).dump();
  const auto again = sublet::ParsePlan(written, "again");
  CHECK(again.has_value());
  CHECK(sublet::PlanToJson(*again).dump() == written);
  return 0;
}
