// Any bytes as a cache of the dynamic linker: they are refused, or read into entries that together
// are no longer than a cache may be.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "cdi/ld_cache.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto entries = sublet::ParseLdCache(bytes);
  if (!entries) {
    CHECK(!entries.error().message.empty());
    return 0;
  }
  std::size_t total = 0;
  for (const sublet::LdCacheEntry& entry : *entries) {
    CHECK(entry.name.find('\0') == std::string::npos);
    total += entry.name.size() + entry.path.size();
  }
  CHECK(total <= sublet::kLdCacheBytesMax);
  return 0;
}
