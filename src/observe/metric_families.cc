#include "observe/metric_families.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <deque>
#include <limits>
#include <map>

#include "base/check.h"

namespace sublet {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

// Cut where a character of UTF-8 begins, and without what is none: the format is UTF-8.
std::string LabelValue(std::string_view text) {
  std::string value;
  std::size_t i = 0;
  while (i < text.size()) {
    const auto first = static_cast<unsigned char>(text[i]);
    const std::size_t length = first < 0x80             ? 1
                               : (first & 0xE0) == 0xC0 ? 2
                               : (first & 0xF0) == 0xE0 ? 3
                               : (first & 0xF8) == 0xF0 ? 4
                                                        : 0;
    bool whole = length > 0 && i + length <= text.size();
    for (std::size_t k = 1; whole && k < length; ++k) {
      whole = (static_cast<unsigned char>(text[i + k]) & 0xC0) == 0x80;
    }
    const std::string_view piece = whole ? text.substr(i, length) : std::string_view("?");
    if (value.size() + piece.size() > kMetricsLabelMax) break;
    value += piece;
    i += whole ? length : 1;
  }
  return value;
}

}  // namespace

class MetricFamilies::Impl {
 public:
  ClientMetric& Add(const char* name, const char* help, MetricType type,
                    const MetricLabels& labels) {
    const auto [at, is_new] = by_name_.try_emplace(name, families_.size());
    if (is_new) families_.push_back({name, help, type, {}});
    ClientMetric metric;
    metric.label.reserve(labels.size());
    for (const auto& [key, value] : labels) metric.label.push_back({key, LabelValue(value)});
    return families_[at->second].metric.emplace_back(std::move(metric));
  }

  std::string Text() const {
    const std::vector<MetricFamily> families(families_.begin(), families_.end());
    return prometheus::TextSerializer().Serialize(families);
  }

 private:
  std::map<std::string_view, std::size_t> by_name_;
  std::deque<MetricFamily> families_;
};

MetricFamilies::MetricFamilies() : impl_(std::make_unique<Impl>()) {}
MetricFamilies::~MetricFamilies() = default;

void MetricFamilies::Gauge(const char* name, const char* help, const MetricLabels& labels,
                           double value) {
  impl_->Add(name, help, MetricType::Gauge, labels).gauge.value = value;
}

void MetricFamilies::Counter(const char* name, const char* help, const MetricLabels& labels,
                             double value) {
  impl_->Add(name, help, MetricType::Counter, labels).counter.value = value;
}

void MetricFamilies::Summary(const char* name, const char* help, double sum, std::int64_t count) {
  ClientMetric& metric = impl_->Add(name, help, MetricType::Summary, {});
  metric.summary.sample_sum = sum;
  metric.summary.sample_count = static_cast<std::uint64_t>(count);
}

void MetricFamilies::Histogram(const char* name, const char* help, const MetricLabels& labels,
                               const HistogramSample& sample) {
  CHECK(sample.counts.size() == sample.bounds.size() + 1);
  ClientMetric& metric = impl_->Add(name, help, MetricType::Histogram, labels);
  std::uint64_t below = 0;
  for (std::size_t i = 0; i < sample.counts.size(); ++i) {
    below += sample.counts[i];
    const double bound =
        i < sample.bounds.size() ? sample.bounds[i] : std::numeric_limits<double>::infinity();
    metric.histogram.bucket.push_back({below, bound});
  }
  metric.histogram.sample_count = below;
  metric.histogram.sample_sum = sample.sum;
}

std::string MetricFamilies::Text() const {
  return impl_->Text();
}

}  // namespace sublet
