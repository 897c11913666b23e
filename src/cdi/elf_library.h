// cdi/elf_library.h
//
// What a shared library says of itself: for which machine it is, and under which name programs ask
// for it (its soname). ldconfig makes its links from just that.
//
//   ASSIGN_OR_RETURN(const ElfLibrary library, ReadElfLibrary("/usr/lib/.../libcuda.so.580.95"));
//   library.soname       // "libcuda.so.1"
//
// Of a file of 100 MB some ten KB are read. 64-bit, little-endian libraries are understood; others
// fail with kUnsupported.
//
// Thread safety: no shared state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"

namespace sublet {

inline constexpr int kElfMachineX86 = 62;       // EM_X86_64
inline constexpr int kElfMachineAarch64 = 183;  // EM_AARCH64

struct ElfLibrary {
  int machine = 0;     // EM_*
  std::string soname;  // Empty where it states none.
};

// Fills `size` bytes from an offset on; false where they don't lie there.
using ByteSource = std::function<bool(std::uint64_t offset, void* bytes, std::size_t size)>;

// Fails with kInvalid where it is no library, or points outside itself.
Result<ElfLibrary> ParseElfLibrary(const ByteSource& source);

Result<ElfLibrary> ReadElfLibrary(const std::string& path);

}  // namespace sublet
