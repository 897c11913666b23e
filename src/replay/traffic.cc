#include "replay/traffic.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <utility>

#include "replay/traffic_makers.h"

namespace sublet {
namespace {

// `name=value` of the kind's parameters, into `values` at the parameter's place.
Status ReadAssignment(std::string_view text, const TrafficKind& kind, std::vector<double>& values) {
  const std::size_t equals = text.find('=');
  const std::string_view name = text.substr(0, equals);
  std::vector<std::string_view> known;
  for (const TrafficParameter& parameter : kind.parameters) known.push_back(parameter.name);
  const auto it = std::ranges::find(known, name);
  if (it == known.end()) {
    return Fail(ErrorCode::kUsage,
                fmt::format("no such parameter of {}: '{}'", kind.name, name.substr(0, 40)),
                fmt::format("it has {}", fmt::join(known, ", ")));
  }
  const auto index = static_cast<std::size_t>(it - known.begin());
  const TrafficParameter& parameter = kind.parameters[index];
  const std::string_view digits =
      equals == std::string_view::npos ? std::string_view() : text.substr(equals + 1);
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() ||
      !(value >= parameter.min && value <= parameter.max)) {
    return Fail(ErrorCode::kUsage,
                fmt::format("{} of {} isn't a number from {} to {}: '{}'", name, kind.name,
                            parameter.min, parameter.max, digits.substr(0, 40)));
  }
  values[index] = value;
  return {};
}

}  // namespace

std::uint32_t TrafficValues::Count(std::string_view name) const {
  return static_cast<std::uint32_t>(std::llround(Of(name)));
}

double TrafficValues::Of(std::string_view name) const {
  const auto it = std::ranges::find(kind_.parameters, name, &TrafficParameter::name);
  CHECK(it != kind_.parameters.end());
  return values_[static_cast<std::size_t>(it - kind_.parameters.begin())];
}

Result<Trace> GenerateTraffic(std::string_view text) {
  const std::string name(text);
  if (!text.starts_with(kTrafficPrefix)) {
    return Fail(ErrorCode::kUsage, fmt::format("not gen:KIND: '{}'", text.substr(0, 40)));
  }
  text.remove_prefix(kTrafficPrefix.size());
  const std::string_view word = text.substr(0, text.find(','));
  const auto& kinds = TrafficKinds();
  const auto kind = std::ranges::find(kinds, word, &TrafficKind::name);
  if (kind == kinds.end()) {
    std::vector<std::string_view> known;
    for (const TrafficKind& each : kinds) known.push_back(each.name);
    return Fail(ErrorCode::kUsage, fmt::format("no such traffic: '{}'", word.substr(0, 40)),
                fmt::format("there is {}", fmt::join(known, ", ")));
  }
  std::vector<double> values;
  for (const TrafficParameter& parameter : kind->parameters) values.push_back(parameter.value);
  text.remove_prefix(word.size());
  while (!text.empty()) {
    text.remove_prefix(1);  // The comma.
    const std::string_view assignment = text.substr(0, text.find(','));
    RETURN_IF_ERROR(ReadAssignment(assignment, *kind, values));
    text.remove_prefix(assignment.size());
  }
  TraceBuilder builder(name, std::nullopt);
  MakeTraffic(TrafficValues(*kind, std::move(values)), builder);
  return builder.Finish();
}

}  // namespace sublet
