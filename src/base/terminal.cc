#include "base/terminal.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace sublet {

std::string Painter::Series(std::size_t index, std::string_view text) const {
  static constexpr std::array<std::string_view, 5> kColours{"36", "34", "35", "32", "33"};
  return Wrap(kColours[index % kColours.size()], text);
}

std::string Painter::Wrap(std::string_view code, std::string_view text) const {
  return colour_ ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : std::string(text);
}

std::string BarText(double part, int width) {
  static constexpr std::array<std::string_view, 8> kEighths{"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int eighths = static_cast<int>(std::lround(std::clamp(part, 0.0, 1.0) * width * 8));
  std::string bar;
  for (int i = 0; i < eighths / 8; ++i) bar += "█";
  return bar + std::string(kEighths[static_cast<std::size_t>(eighths % 8)]);
}

int ColumnsOf(std::string_view text) {
  return static_cast<int>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string PaddedRight(std::string_view text, int width) {
  const int missing = std::max(width - ColumnsOf(text), 0);
  return std::string(text) + std::string(static_cast<std::size_t>(missing), ' ');
}

std::string PaddedLeft(std::string_view text, int width) {
  const int missing = std::max(width - ColumnsOf(text), 0);
  return std::string(static_cast<std::size_t>(missing), ' ') + std::string(text);
}

std::string Grouped(double number) {
  const std::string digits = std::to_string(std::abs(std::llround(number)));
  std::string out;
  if (number <= -0.5) out += '-';
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string ThreeDigits(double number) {
  const double size = std::abs(number);
  if (size >= 99.95) return Grouped(number);
  return fmt::format("{:.{}f}", number, size >= 9.995 ? 1 : 2);
}

std::string WrappedText(std::string_view text, int indent, int width) {
  std::string out;
  int column = indent;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    const int columns = ColumnsOf(word);
    if (column > indent && column + 1 + columns > width) {
      out += "\n" + std::string(static_cast<std::size_t>(indent), ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += columns;
    text.remove_prefix(std::min(word.size() + 1, text.size()));
  }
  return out;
}

}  // namespace sublet
