#include "kvcache/json_text.h"

#include <charconv>
#include <cmath>
#include <limits>

namespace sublet {
namespace {

constexpr std::uint32_t kHighSurrogate = 0xD800;  // To 0xDBFF; the first of a pair.
constexpr std::uint32_t kLowSurrogate = 0xDC00;   // To 0xDFFF.
constexpr std::uint32_t kSurrogateEnd = 0xE000;

// The four hexadecimal digits behind "\u" at the begin of `raw`.
std::optional<std::uint32_t> CodeUnit(std::string_view raw) {
  if (raw.size() < 6 || raw[0] != '\\' || raw[1] != 'u') return std::nullopt;
  std::uint32_t unit = 0;
  const char* const end = raw.data() + 6;
  const auto [at, error] = std::from_chars(raw.data() + 2, end, unit, 16);
  if (error != std::errc() || at != end) return std::nullopt;
  return unit;
}

int WriteUtf8(std::uint32_t code, char (&out)[4]) {
  const auto tail = [code](int shift) {
    return static_cast<char>(0x80 | ((code >> shift) & 0x3F));
  };
  if (code < 0x80) {
    out[0] = static_cast<char>(code);
    return 1;
  }
  if (code < 0x800) {
    out[0] = static_cast<char>(0xC0 | (code >> 6));
    out[1] = tail(0);
    return 2;
  }
  if (code < 0x10000) {
    out[0] = static_cast<char>(0xE0 | (code >> 12));
    out[1] = tail(6);
    out[2] = tail(0);
    return 3;
  }
  out[0] = static_cast<char>(0xF0 | (code >> 18));
  out[1] = tail(12);
  out[2] = tail(6);
  out[3] = tail(0);
  return 4;
}

char PlainEscape(char letter) {
  switch (letter) {
    case '"':
      return '"';
    case '\\':
      return '\\';
    case '/':
      return '/';
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    default:
      return 0;
  }
}

// Takes digits off; false where there is none.
bool TakeDigits(std::string_view& text) {
  std::size_t count = 0;
  while (count < text.size() && text[count] >= '0' && text[count] <= '9') ++count;
  text.remove_prefix(count);
  return count > 0;
}

}  // namespace

int DecodeEscape(std::string_view& raw, char (&out)[4], bool& lone_surrogate) {
  if (raw.size() < 2) return 0;
  if (raw[1] != 'u') {
    out[0] = PlainEscape(raw[1]);
    raw.remove_prefix(2);
    return out[0] != 0 ? 1 : 0;
  }
  const std::optional<std::uint32_t> unit = CodeUnit(raw);
  if (!unit) return 0;
  raw.remove_prefix(6);
  if (*unit < kHighSurrogate || *unit >= kSurrogateEnd) return WriteUtf8(*unit, out);
  if (*unit < kLowSurrogate) {
    const std::optional<std::uint32_t> low = CodeUnit(raw);
    if (low && *low >= kLowSurrogate && *low < kSurrogateEnd) {
      raw.remove_prefix(6);
      const std::uint32_t code =
          0x10000 + ((*unit - kHighSurrogate) << 10) + (*low - kLowSurrogate);
      return WriteUtf8(code, out);
    }
  }
  lone_surrogate = true;
  return WriteUtf8(*unit, out);
}

std::string_view TrimRight(std::string_view token) {
  while (!token.empty() && (token.back() == ' ' || token.back() == '\n' || token.back() == '\r' ||
                            token.back() == '\t')) {
    token.remove_suffix(1);
  }
  return token;
}

std::optional<std::string_view> StringInside(std::string_view token) {
  token = TrimRight(token);
  if (token.size() < 2 || token.front() != '"' || token.back() != '"') return std::nullopt;
  return token.substr(1, token.size() - 2);
}

bool IsJsonNumber(std::string_view token) {
  if (token.starts_with('-')) token.remove_prefix(1);
  const bool zero = token.starts_with('0');
  const std::size_t before = token.size();
  if (!TakeDigits(token)) return false;
  if (zero && before - token.size() > 1) return false;
  if (token.starts_with('.')) {
    token.remove_prefix(1);
    if (!TakeDigits(token)) return false;
  }
  if (token.starts_with('e') || token.starts_with('E')) {
    token.remove_prefix(1);
    if (token.starts_with('+') || token.starts_with('-')) token.remove_prefix(1);
    if (!TakeDigits(token)) return false;
  }
  return token.empty();
}

bool IsJsonAtom(std::string_view token) {
  return token == "true" || token == "false" || token == "null" || IsJsonNumber(token);
}

std::optional<std::int64_t> IntegerOf(std::string_view token) {
  token = TrimRight(token);
  if (!IsJsonNumber(token)) return std::nullopt;
  using Limits = std::numeric_limits<std::int64_t>;
  const char* const end = token.data() + token.size();
  std::int64_t value = 0;
  const auto [at, error] = std::from_chars(token.data(), end, value);
  if (at == end) {
    if (error == std::errc()) return value;
    return token.front() == '-' ? Limits::min() : Limits::max();
  }
  double real = 0;
  // Where it is out of range, from_chars leaves 0, which would be a wrong answer.
  if (std::from_chars(token.data(), end, real).ec != std::errc()) return std::nullopt;
  if (real != std::floor(real)) return std::nullopt;
  if (real >= 9.2e18) return Limits::max();
  if (real <= -9.2e18) return Limits::min();
  return static_cast<std::int64_t>(real);
}

}  // namespace sublet
