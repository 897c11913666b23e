// Any bytes as MIG targets, which a daemon takes from whoever may connect: they are refused with a
// message, or read into a value that writing and reading again gives back.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/check.h"
#include "model/mig_target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto targets = sublet::ParseMigTargets(text, "fuzz");
  if (!targets) {
    CHECK(!targets.error().message.empty());
    return 0;
  }
  const auto again = sublet::ParseMigTargets(sublet::MigTargetsToJson(*targets).dump(), "again");
  CHECK(again.has_value());
  CHECK(*again == *targets);
  return 0;
}
