// Any bytes as a shared library: they are refused, or have a name that may be a file's.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "cdi/elf_library.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto library =
      sublet::ParseElfLibrary([&](std::uint64_t offset, void* bytes, std::size_t length) {
        if (offset > size || length > size - offset) return false;
        if (length > 0) std::memcpy(bytes, data + offset, length);
        return true;
      });
  if (!library) {
    CHECK(!library.error().message.empty());
    return 0;
  }
  CHECK(library->soname.size() <= 255);
  CHECK(library->soname.find('/') == std::string::npos);
  return 0;
}
