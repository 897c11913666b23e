// Any bytes as a mig-parted hooks file: they are refused with a message, or read into hooks that
// can be run.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "model/mig_hooks.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto hooks = sublet::ParseMigHooks(text, "fuzz");
  if (!hooks) {
    CHECK(!hooks.error().message.empty());
    return 0;
  }
  for (const auto& point : hooks->by_point) {
    for (const sublet::MigHook& hook : point) {
      CHECK(!hook.command.empty());
      CHECK(hook.command.find('\0') == std::string::npos);
      for (const std::string& argument : hook.args) CHECK(argument.find('\0') == std::string::npos);
    }
  }
  return 0;
}
