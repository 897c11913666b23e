// sim/engine/engine_metrics.h
//
// An engine's figures under the names that vLLM gives them.
//
//   metrics.OnFirstToken(0.130);
//   metrics.OnFinished(1.2, "stop");
//   exchange->Answer(200, kPrometheusType, metrics.Text(engine, "demo"));
//
// Prefix cache queries and hits are in tokens, as vLLM's. Times are those that clients see.
//
// Thread safety: its owner's.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"

namespace sublet {

inline constexpr std::string_view kPrometheusType = "text/plain; version=0.0.4; charset=utf-8";

// Counts of values up to each of its bounds, in the way of Prometheus.
class TimeHistogram {
 public:
  explicit TimeHistogram(std::vector<double> bounds_s)
      : bounds_s_(std::move(bounds_s)), counts_(bounds_s_.size() + 1) {}
  void Observe(double seconds);
  void AppendText(std::string_view name, std::string_view labels, std::string_view help,
                  std::string& out) const;

 private:
  std::vector<double> bounds_s_;
  std::vector<std::int64_t> counts_;  // Not yet summed up.
  double sum_s_ = 0;
};

class EngineMeters {
 public:
  EngineMeters();

  void OnFirstToken(double since_arrival_s) { first_token_.Observe(since_arrival_s); }
  void OnToken(double since_last_s) { each_token_.Observe(since_last_s); }
  void OnFinished(double since_arrival_s, std::string_view reason);

  std::string Text(const Engine& engine, std::string_view model) const;

 private:
  TimeHistogram first_token_;
  TimeHistogram each_token_;
  TimeHistogram whole_;
  std::map<std::string, std::int64_t, std::less<>> finished_;  // By reason.
};

}  // namespace sublet
