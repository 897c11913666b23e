#include "engine/sim_fault.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace sublet {
namespace {

using What = SimFault::What;

constexpr std::array<std::pair<std::string_view, What>, 9> kNames = {
    {{"status", What::kStatus},
     {"hang", What::kHang},
     {"reset", What::kReset},
     {"close", What::kClose},
     {"garbage", What::kGarbage},
     {"slow", What::kSlow},
     {"events-stop", What::kEventsStop},
     {"events-drop", What::kEventsDrop},
     {"restart", What::kRestart}}};

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const std::size_t begin = std::min(text.find_first_not_of(kBlanks), text.size());
  text.remove_prefix(begin);
  return text.substr(0, text.find_last_not_of(kBlanks) + 1);
}

// Takes what stands before the next ';'.
std::string_view Next(std::string_view& text) {
  const std::size_t end = std::min(text.find(';'), text.size());
  const std::string_view word = Trimmed(text.substr(0, end));
  text.remove_prefix(std::min(end + 1, text.size()));
  return word;
}

int* Field(SimFault& fault, std::string_view name) {
  if (name == "after") return &fault.after;
  if (name == "ms") return &fault.ms;
  if (name == "code") return &fault.code;
  if (name == "retry") return &fault.retry_s;
  if (name == "times") return &fault.times;
  return nullptr;
}

}  // namespace

Result<SimFault> ParseSimFault(std::string_view text) {
  const std::string_view name = Next(text);
  const auto known = std::find_if(kNames.begin(), kNames.end(),
                                  [&](const auto& each) { return each.first == name; });
  if (known == kNames.end()) {
    std::string names;
    for (const auto& each : kNames) names += fmt::format(" {}", each.first);
    return Fail(ErrorCode::kInvalid, fmt::format("no such fault: {}", name), "there are:" + names);
  }
  SimFault fault{.what = known->second};
  while (!text.empty()) {
    const std::string_view setting = Next(text);
    const std::size_t equals = std::min(setting.find('='), setting.size());
    int* const field = Field(fault, setting.substr(0, equals));
    const std::string_view number = setting.substr(std::min(equals + 1, setting.size()));
    int value = -1;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (field == nullptr || error != std::errc() || end != number.data() + number.size() ||
        value < 0) {
      return Fail(ErrorCode::kInvalid, fmt::format("not a setting of a fault: {}", setting),
                  "there are: after ms code retry times, each with a whole number");
    }
    *field = value;
  }
  if (fault.code < 400 || fault.code > 599) {
    return Fail(ErrorCode::kInvalid, fmt::format("not the status of an error: {}", fault.code));
  }
  return fault;
}

}  // namespace sublet
