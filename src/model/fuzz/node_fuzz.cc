// Any bytes as a recorded node: they are refused with a message that has a place, or read into an
// inventory that writing and reading again gives back.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/check.h"
#include "model/inventory.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto node = sublet::ParseInventory(text, "fuzz");
  if (!node) {
    CHECK(node.error().code == sublet::ErrorCode::kInvalid);
    CHECK(node.error().message.starts_with("fuzz:"));
    return 0;
  }
  const std::string written = sublet::InventoryToJson(*node).dump();
  const auto again = sublet::ParseInventory(written, "again");
  CHECK(again.has_value());
  CHECK(sublet::InventoryToJson(*again).dump() == written);
  return 0;
}
