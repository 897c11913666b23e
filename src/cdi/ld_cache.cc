#include "cdi/ld_cache.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <optional>

namespace sublet {
namespace {

constexpr std::string_view kOldMagic = "ld.so-1.7.0";
constexpr std::string_view kMagic = "glibc-ld.so.cache1.1";

// The old format: the magic, filled up to 12 bytes; the number of entries; entries of 12 bytes.
constexpr std::size_t kOldHeaderBytes = 16;
constexpr std::size_t kOldEntryBytes = 12;
// The new one follows where an 8-byte number may lie.
constexpr std::size_t kAlignment = 8;

// The new format: the magic (20), the number of entries (4), the length of the strings (4), flags
// (1), padding (3), the offset of extensions (4), three numbers unused (12).
constexpr std::size_t kHeaderBytes = 48;
constexpr std::size_t kCountAt = 20;
constexpr std::size_t kFlagsAt = 28;
// An entry: flags (4), key (4), value (4), the kernel needed (4), hardware capabilities (8).
constexpr std::size_t kEntryBytes = 24;
constexpr std::size_t kKeyAt = 4;
constexpr std::size_t kValueAt = 8;

constexpr unsigned kEndianMask = 3;
constexpr unsigned kEndianUnset = 0;  // Written by a glibc before 2.33.
constexpr unsigned kEndianLittle = 2;

constexpr std::size_t kNameBytesMax = 4096;  // PATH_MAX

// REQUIRES: four bytes lie there.
std::uint32_t NumberAt(std::string_view bytes, std::size_t at) {
  std::uint32_t number = 0;
  std::memcpy(&number, bytes.data() + at, sizeof number);
  return number;
}

std::optional<std::string> TextAt(std::string_view bytes, std::size_t at) {
  if (at >= bytes.size()) return std::nullopt;
  const std::string_view rest = bytes.substr(at, kNameBytesMax + 1);
  const std::size_t end = rest.find('\0');
  if (end == std::string_view::npos) return std::nullopt;
  return std::string(rest.substr(0, end));
}

tl::unexpected<Error> NoCache(std::string why) {
  return Fail(ErrorCode::kInvalid, "no cache of the dynamic linker: " + std::move(why));
}

// The part in the new format.
Result<std::string_view> NewPart(std::string_view bytes) {
  if (bytes.starts_with(kMagic)) return bytes;
  if (!bytes.starts_with(kOldMagic) || bytes.size() < kOldHeaderBytes) {
    return NoCache("it begins with something else");
  }
  const std::size_t count = NumberAt(bytes, kOldHeaderBytes - 4);
  const std::size_t end = kOldHeaderBytes + count * kOldEntryBytes;  // count < 2^32
  const std::size_t begin = (end + kAlignment - 1) / kAlignment * kAlignment;
  if (begin >= bytes.size()) return NoCache("it has the old format only");
  bytes.remove_prefix(begin);
  if (!bytes.starts_with(kMagic)) return NoCache("it has the old format only");
  return bytes;
}

}  // namespace

Result<std::vector<LdCacheEntry>> ParseLdCache(std::string_view whole) {
  ASSIGN_OR_RETURN(const std::string_view bytes, NewPart(whole));
  if (bytes.size() < kHeaderBytes) return NoCache("it ends in its head");
  const unsigned endian = static_cast<unsigned char>(bytes[kFlagsAt]) & kEndianMask;
  if (endian != kEndianUnset && endian != kEndianLittle) {
    return NoCache("it has another machine's byte order");
  }
  const std::size_t count = NumberAt(bytes, kCountAt);
  if (count > (bytes.size() - kHeaderBytes) / kEntryBytes) {
    return NoCache(fmt::format("it ends before its {} entries", count));
  }
  std::vector<LdCacheEntry> entries;
  entries.reserve(count);
  std::size_t text_bytes = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t at = kHeaderBytes + i * kEntryBytes;
    std::optional<std::string> name = TextAt(bytes, NumberAt(bytes, at + kKeyAt));
    std::optional<std::string> path = TextAt(bytes, NumberAt(bytes, at + kValueAt));
    if (!name || !path) return NoCache(fmt::format("entry {} points outside", i));
    // Entries may share their texts, so a small file can stand for much.
    text_bytes += name->size() + path->size();
    if (text_bytes > kLdCacheBytesMax) return NoCache("its texts are longer than any cache");
    entries.push_back({std::move(*name), std::move(*path)});
  }
  return entries;
}

}  // namespace sublet
