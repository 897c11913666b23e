#include "mps_words.h"

#include <fmt/format.h>

#include <charconv>
#include <sstream>

namespace sublet::sim {

std::optional<Bytes> ParseMpsLimit(std::string_view text) {
  std::int64_t number = 0;
  const char* const last = text.data() + text.size();
  const auto [end, ec] = std::from_chars(text.data(), last, number);
  constexpr std::int64_t kMost = std::int64_t{1} << 30;  // Of any unit, so that nothing overflows.
  if (ec != std::errc() || number <= 0) return std::nullopt;
  const std::string_view unit(end, static_cast<std::size_t>(last - end));
  if (unit.size() > 1 || number > kMost) return std::nullopt;
  if (unit.empty()) return Bytes::FromMib(number);
  switch (unit.front()) {
    case 'K':
    case 'k':
      return Bytes{number << 10};
    case 'M':
    case 'm':
      return Bytes{number << 20};
    case 'G':
    case 'g':
      return Bytes{number << 30};
    default:
      return std::nullopt;
  }
}

std::string FormatMpsLimit(Bytes limit) {
  return limit >= 1_GiB ? fmt::format("{}G", limit.mib() >> 10) : fmt::format("{}M", limit.mib());
}

std::optional<double> ParsePercent(std::string_view text) {
  double value = 0;
  const char* const last = text.data() + text.size();
  const auto [end, ec] = std::from_chars(text.data(), last, value);
  const bool good = ec == std::errc() && end == last && value > 0 && value <= 100;
  return good ? std::optional(value) : std::nullopt;
}

std::optional<std::vector<MpsDeviceLimit>> ParseDeviceLimits(std::string_view text) {
  const auto trim = [](std::string_view word) {
    while (word.starts_with(' ')) word.remove_prefix(1);
    while (word.ends_with(' ')) word.remove_suffix(1);
    return word;
  };
  std::vector<MpsDeviceLimit> limits;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find(','));
    text.remove_prefix(std::min(part.size() + 1, text.size()));
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    const std::string_view device = trim(part.substr(0, equals));
    const std::optional<Bytes> limit = ParseMpsLimit(trim(part.substr(equals + 1)));
    if (device.empty() || !limit) return std::nullopt;
    limits.push_back({std::string(device), *limit});
  }
  return limits;
}

std::vector<std::string> Words(std::string_view line) {
  std::istringstream in{std::string(line)};
  std::vector<std::string> words;
  std::string word;
  while (in >> word) words.push_back(word);
  return words;
}

}  // namespace sublet::sim
