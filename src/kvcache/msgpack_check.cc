#include "kvcache/msgpack_check.h"

#include <msgpuck.h>

#include <cstddef>
#include <cstdint>

namespace sublet {
namespace {

// A big-endian length of `width` bytes, taken off; false where they aren't there.
bool TakeLength(const char*& at, const char* end, int width, std::uint64_t& length) {
  if (end - at < width) return false;
  length = 0;
  for (int i = 0; i < width; ++i) length = length << 8 | static_cast<unsigned char>(*at++);
  return true;
}

// How many bytes the length has that follows this first byte, and what it is of.
struct LengthAhead {
  int width = 0;
  int inside_each = 0;    // Values for each of the length: 1 in an array, 2 in a map.
  int bytes_besides = 0;  // An extension's type.
};

LengthAhead LengthBehind(unsigned char first) {
  switch (first) {
    case 0xc4:
    case 0xd9:
      return {.width = 1};  // Bytes, text.
    case 0xc5:
    case 0xda:
      return {.width = 2};
    case 0xc6:
    case 0xdb:
      return {.width = 4};
    case 0xc7:
      return {.width = 1, .bytes_besides = 1};
    case 0xc8:
      return {.width = 2, .bytes_besides = 1};
    case 0xc9:
      return {.width = 4, .bytes_besides = 1};
    case 0xdc:
      return {.width = 2, .inside_each = 1};
    case 0xdd:
      return {.width = 4, .inside_each = 1};
    case 0xde:
      return {.width = 2, .inside_each = 2};
    case 0xdf:
      return {.width = 4, .inside_each = 2};
    default:
      return {};
  }
}

// Steps over the own bytes of a value whose length stands behind its first byte.
bool TakeLongValue(const char*& at, const char* end, unsigned char first, std::uint64_t& inside) {
  const LengthAhead ahead = LengthBehind(first);
  std::uint64_t length = 0;
  if (ahead.width == 0 || !TakeLength(at, end, ahead.width, length)) return false;
  inside = length * static_cast<std::uint64_t>(ahead.inside_each);
  if (ahead.inside_each > 0) return true;
  length += static_cast<std::uint64_t>(ahead.bytes_besides);
  if (length > static_cast<std::uint64_t>(end - at)) return false;
  at += length;
  return true;
}

}  // namespace

bool IsMsgpack(std::string_view bytes) {
  const char* at = bytes.data();
  const char* const end = at + bytes.size();
  std::uint64_t values = 1;
  while (values > 0) {
    if (at == end) return false;
    --values;
    std::uint64_t inside = 0;
    const auto first = static_cast<unsigned char>(*at++);
    // msgpuck's table: the bytes that follow; or, negative, the values inside; or neither.
    const int hint = mp_parser_hint[first];
    if (hint >= 0) {
      // c1 is the one byte that no value begins with.
      if (hint > end - at || first == 0xc1) return false;
      at += hint;
    } else if (hint > MP_HINT) {
      inside = static_cast<std::uint64_t>(-hint);
    } else if (!TakeLongValue(at, end, first, inside)) {
      return false;
    }
    values += inside;
    if (values > static_cast<std::uint64_t>(end - at)) return false;
  }
  return at == end;
}

}  // namespace sublet
