// replay/traffic_makers.h
//
// Within generated traffic: the parameters of one kind as they were given, and what makes it.
//
// Thread safety: values.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "replay/trace.h"
#include "replay/traffic.h"

namespace sublet {

class TrafficValues {
 public:
  // REQUIRES: a value for each of the kind's parameters, in their order.
  TrafficValues(const TrafficKind& kind, std::vector<double> values)
      : kind_(kind), values_(std::move(values)) {
    CHECK(values_.size() == kind_.parameters.size());
  }

  std::string_view kind() const { return kind_.name; }
  double Of(std::string_view name) const;            // REQUIRES: a parameter of the kind.
  std::uint32_t Count(std::string_view name) const;  // Rounded.
  std::uint64_t seed() const { return static_cast<std::uint64_t>(Of("seed")); }

 private:
  const TrafficKind& kind_;
  std::vector<double> values_;
};

// Adds all requests of that kind.
void MakeTraffic(const TrafficValues& values, TraceBuilder& builder);

}  // namespace sublet
