// cdi/ld_cache.h
//
// The dynamic linker's cache (/etc/ld.so.cache): which file a library's name stands for.
//
//   ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kLdCacheBytesMax));
//   ASSIGN_OR_RETURN(const std::vector<LdCacheEntry> entries, ParseLdCache(bytes));
//
// The format is glibc's "glibc-ld.so.cache1.1", by itself or behind the older "ld.so-1.7.0", as
// ldconfig writes it (glibc, sysdeps/generic/dl-cache.h). The older one alone, which no system with
// a driver of today has, is an error, and so is the other byte order.
//
// Entries of all architectures come: what a file is, its own head tells (cdi/elf_library.h).
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sublet {

// Thirty times the cache of a desktop with everything installed.
inline constexpr std::size_t kLdCacheBytesMax = 16u << 20;

struct LdCacheEntry {
  std::string name;  // "libcuda.so.1"
  std::string path;  // "/lib/x86_64-linux-gnu/libcuda.so.1"

  friend bool operator==(const LdCacheEntry&, const LdCacheEntry&) = default;
};

// In the order of the file. Fails with kInvalid where it is no such cache, or points outside
// itself.
Result<std::vector<LdCacheEntry>> ParseLdCache(std::string_view bytes);

}  // namespace sublet
