// Any bytes as a mig-parted file: they are refused with a message, or read into a value that
// writing and reading again gives back.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "model/mig_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = sublet::ParseMigConfig(text, "fuzz");
  if (!config) {
    CHECK(!config.error().message.empty());
    return 0;
  }
  const auto again = sublet::ParseMigConfig(sublet::MigConfigToYaml(*config), "again");
  CHECK(again.has_value());
  CHECK(*again == *config);
  return 0;
}
