#include "observe/cells.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/terminal.h"

namespace sublet {
namespace {

// Bytes of the character of UTF-8 that begins `text`; 0 where none does.
std::size_t CharacterAt(std::string_view text) {
  const auto first = static_cast<unsigned char>(text.front());
  const std::size_t length = first < 0x80             ? 1
                             : (first & 0xE0) == 0xC0 ? 2
                             : (first & 0xF0) == 0xE0 ? 3
                             : (first & 0xF8) == 0xF0 ? 4
                                                      : 0;
  if (length == 0 || length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) return 0;
  }
  return length;
}

// C0 and C1, the latter as two bytes of UTF-8; both steer terminals.
bool IsControl(std::string_view character) {
  const auto first = static_cast<unsigned char>(character.front());
  if (character.size() == 1) return first < 0x20 || first == 0x7F;
  return character.size() == 2 && first == 0xC2 && static_cast<unsigned char>(character[1]) < 0xA0;
}

}  // namespace

std::string Printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = CharacterAt(text);
    const std::string_view character = text.substr(0, std::max<std::size_t>(length, 1));
    out += length == 0 || IsControl(character) ? "?" : character;
    text.remove_prefix(character.size());
  }
  return out;
}

std::string CutText(std::string_view text, int width) {
  std::string clean = Printable(text);
  if (ColumnsOf(clean) <= width) return clean;
  if (width <= 0) return "";
  std::string out;
  std::string_view rest = clean;
  for (int column = 1; column < width; ++column) {
    const std::size_t length = CharacterAt(rest);
    out += rest.substr(0, length);
    rest.remove_prefix(length);
  }
  return out + "…";
}

std::string Cell(std::string_view text, int width) {
  return PaddedRight(CutText(text, width), width);
}

std::string RightCell(std::string_view text, int width) {
  return PaddedLeft(CutText(text, width), width);
}

std::string DurationText(std::optional<double> seconds) {
  if (!seconds) return "-";
  const auto whole = static_cast<long long>(std::max(*seconds, 0.0));
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{}h{:02}", whole / 3600, whole / 60 % 60);
  return fmt::format("{}d{:02}h", whole / 86400, whole / 3600 % 24);
}

std::string MemoryText(std::optional<Bytes> used, std::optional<Bytes> limit) {
  const bool large = std::max(used.value_or(Bytes{}), limit.value_or(Bytes{})) >= 1_GiB;
  const auto amount = [large](std::optional<Bytes> bytes) {
    if (!bytes) return std::string("?");
    return large ? fmt::format("{:.1f}", bytes->gib()) : std::to_string(bytes->mib());
  };
  const std::string_view unit = large ? "GiB" : "MiB";
  if (limit) return fmt::format("{}/{} {}", amount(used), amount(limit), unit);
  return used ? fmt::format("{} {}", amount(used), unit) : "?";
}

std::string PercentText(std::optional<double> percent) {
  if (!percent) return "-";
  if (*percent > 0 && *percent < 1) return fmt::format("{:.1f} %", *percent);
  return fmt::format("{:.0f} %", *percent);
}

bool IsEnforced(const Share& share, std::string_view what) {
  return std::ranges::any_of(share.enforcement, [what](const Enforcement& one) {
    return one.what == what && one.enforced;
  });
}

}  // namespace sublet
