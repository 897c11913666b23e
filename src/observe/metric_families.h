// observe/metric_families.h
//
// Samples as Prometheus reads them, gathered into families.
//
//   MetricFamilies out;
//   out.Counter("sublet_grants_total", "Shares given.", {}, counters.grants);
//   out.Gauge("sublet_gpu_healthy", "1 where it may get new shares.", {{"gpu", "0"}}, 1);
//   response.body = out.Text();       // text/plain; version=0.0.4
//
// Families come out in the order in which they were first named, each with its series in theirs.
// Label values are made fit: UTF-8, at most kMetricsLabelMax bytes.
//
// Thread safety: a value; its owner's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sublet {

// A Kubernetes pod's name, the longest there is, has at most 253.
inline constexpr std::size_t kMetricsLabelMax = 256;

using MetricLabels = std::vector<std::pair<std::string, std::string>>;

// Counts of what was at most each bound, in ascending order, and one more for what was above all.
struct HistogramSample {
  std::vector<double> bounds;
  std::vector<std::uint64_t> counts;  // Each for itself, not added up; bounds.size() + 1 of them.
  double sum = 0;
};

class MetricFamilies {
 public:
  MetricFamilies();
  ~MetricFamilies();
  MetricFamilies(const MetricFamilies&) = delete;
  MetricFamilies& operator=(const MetricFamilies&) = delete;

  void Gauge(const char* name, const char* help, const MetricLabels& labels, double value);
  void Counter(const char* name, const char* help, const MetricLabels& labels, double value);
  void Counter(const char* name, const char* help, const MetricLabels& labels, std::int64_t value) {
    Counter(name, help, labels, static_cast<double>(value));
  }
  // A sum and a count without quantiles.
  void Summary(const char* name, const char* help, double sum, std::int64_t count);
  // REQUIRES: one count more than bounds.
  void Histogram(const char* name, const char* help, const MetricLabels& labels,
                 const HistogramSample& sample);

  std::string Text() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sublet
