#include "proxy/route_metrics.h"

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <unordered_map>

namespace sublet {
namespace {

constexpr std::size_t kShards = 16;  // More than threads that serve, mostly.
constexpr std::string_view kOther = "other";
constexpr std::string_view kGone = "gone";

// Seconds. From what a cached prompt takes to what a client still waits for.
constexpr std::array kTtftBounds{0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.15, 0.25, 0.5,
                                 0.75,  1.0,  2.5,  5.0,  7.5,  10.0, 20.0, 40.0, 80.0};
constexpr std::array kTokenBounds{0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05,
                                  0.075,  0.1,   0.15, 0.2,   0.3,  0.5,  1.0,  2.5};
constexpr std::array kRequestBounds{0.05, 0.1,  0.25, 0.5,   1.0,   2.5,   5.0,   10.0,
                                    20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0};
// A decision has microseconds.
constexpr std::array kDecisionBounds{2e-6,   5e-6,   10e-6, 20e-6, 50e-6, 100e-6,
                                     200e-6, 500e-6, 1e-3,  2e-3,  5e-3,  10e-3};
constexpr std::array kQueueBounds{0.001, 0.01, 0.05, 0.1,  0.25, 0.5, 1.0,
                                  2.5,   5.0,  10.0, 20.0, 30.0, 60.0};

template <std::size_t N>
struct Histogram {
  std::array<std::uint64_t, N + 1> counts{};
  double sum = 0;

  void Add(double value, const std::array<double, N>& bounds) {
    const auto at = std::lower_bound(bounds.begin(), bounds.end(), value);
    ++counts[static_cast<std::size_t>(at - bounds.begin())];
    sum += value;
  }
  void Add(const Histogram& other) {
    for (std::size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
    sum += other.sum;
  }
  HistogramSample Sample(const std::array<double, N>& bounds) const {
    return {.bounds = {bounds.begin(), bounds.end()},
            .counts = {counts.begin(), counts.end()},
            .sum = sum};
  }
};

double Seconds(std::int64_t ns) {
  return static_cast<double>(ns) / 1e9;
}

struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const {
    return std::hash<std::string_view>()(text);
  }
};

struct ModelTally {
  Histogram<kTtftBounds.size()> ttft;
  Histogram<kTokenBounds.size()> token;
  Histogram<kRequestBounds.size()> request;
  std::int64_t prompt_tokens = 0;
  std::int64_t prompt_tokens_expected = 0;
  std::int64_t cached_tokens = 0;
  std::int64_t cached_tokens_expected = 0;
  std::int64_t output_tokens = 0;

  void Add(const AccessRecord& record) {
    request.Add(Seconds(record.total_ns), kRequestBounds);
    if (record.first_token_ns) ttft.Add(Seconds(*record.first_token_ns), kTtftBounds);
    prompt_tokens += record.prompt_tokens.value_or(0);
    cached_tokens += record.cached_tokens.value_or(0);
    output_tokens += record.output_tokens.value_or(0);
    prompt_tokens_expected += record.prompt_tokens_expected;
    cached_tokens_expected += record.cached_tokens_expected;
    if (!record.first_token_ns) return;
    // Where the answer had no usage, an event of a stream stands for a token.
    const std::int64_t tokens =
        record.output_tokens ? std::int64_t{*record.output_tokens} : record.events;
    if (tokens < 2) return;
    const std::int64_t decode_ns = record.total_ns - *record.first_token_ns;
    token.Add(Seconds(decode_ns) / static_cast<double>(tokens - 1), kTokenBounds);
  }
  void Add(const ModelTally& other) {
    ttft.Add(other.ttft);
    token.Add(other.token);
    request.Add(other.request);
    prompt_tokens += other.prompt_tokens;
    prompt_tokens_expected += other.prompt_tokens_expected;
    cached_tokens += other.cached_tokens;
    cached_tokens_expected += other.cached_tokens_expected;
    output_tokens += other.output_tokens;
  }
};

struct RequestSeries {
  std::string model;
  std::string replica;
  int status = 0;
  RequestOutcome outcome = RequestOutcome::kServed;

  auto Tie() const { return std::tie(model, replica, status, outcome); }
  friend bool operator<(const RequestSeries& a, const RequestSeries& b) {
    return a.Tie() < b.Tie();
  }
};

// The same without texts of its own, for looking up.
struct RequestSeriesView {
  std::string_view model;
  std::string_view replica;
  int status = 0;
  RequestOutcome outcome = RequestOutcome::kServed;
};

RequestSeriesView ViewOf(const RequestSeries& series) {
  return {series.model, series.replica, series.status, series.outcome};
}
const RequestSeriesView& ViewOf(const RequestSeriesView& view) {
  return view;
}

struct SeriesHash {
  using is_transparent = void;
  template <typename S>
  std::size_t operator()(const S& series) const {
    const RequestSeriesView& view = ViewOf(series);
    const std::hash<std::string_view> text;
    std::size_t hash = text(view.model);
    hash = hash * 0x9E3779B97F4A7C15u + text(view.replica);
    hash = hash * 0x9E3779B97F4A7C15u + static_cast<std::size_t>(view.status);
    return hash * 0x9E3779B97F4A7C15u + static_cast<std::size_t>(view.outcome);
  }
};

struct SeriesEqual {
  using is_transparent = void;
  template <typename A, typename B>
  bool operator()(const A& a, const B& b) const {
    const RequestSeriesView& x = ViewOf(a);
    const RequestSeriesView& y = ViewOf(b);
    return x.status == y.status && x.outcome == y.outcome && x.model == y.model &&
           x.replica == y.replica;
  }
};

using Outcomes = std::array<std::int64_t, kRequestOutcomes>;

// What one thread, or a few, have counted.
struct Shard {
  mutable std::mutex mutex;
  std::unordered_map<RequestSeries, std::int64_t, SeriesHash, SeriesEqual> requests;
  std::unordered_map<std::string, ModelTally, TextHash, std::equal_to<>> models;
  std::unordered_map<std::string, Outcomes, TextHash, std::equal_to<>> tenants;
  Histogram<kDecisionBounds.size()> decision;
  Histogram<kQueueBounds.size()> queue;
  std::int64_t retried = 0;
};

// The entry of `name`, or that of the others where there are too many.
template <typename Map>
typename Map::mapped_type& EntryOf(Map& map, std::string_view name, std::size_t entries_max) {
  auto at = map.find(name);
  if (at == map.end()) {
    at = map.try_emplace(std::string(map.size() < entries_max ? name : kOther)).first;
  }
  return at->second;
}

}  // namespace

class RouteMetrics::Impl {
 public:
  void Count(const AccessRecord& record) {
    Shard& shard = ShardOfThisThread();
    // A model that no replica served is a client's text, and there is no end of those.
    const std::string_view model = record.replica.empty() ? kOther : record.model;
    const std::scoped_lock lock(shard.mutex);
    CountSeries(shard, {model, record.replica, record.status, record.outcome});
    if (!record.replica.empty()) EntryOf(shard.models, model, kModelsMax).Add(record);
    // Likewise a tenant that was only claimed; those of keys are few.
    if (!record.tenant.empty()) {
      ++EntryOf(shard.tenants, record.tenant,
                kTenantsMax)[static_cast<std::size_t>(record.outcome)];
    }
    if (record.decide_ns > 0) shard.decision.Add(Seconds(record.decide_ns), kDecisionBounds);
    if (record.queued) shard.queue.Add(Seconds(record.waited_ns), kQueueBounds);
  }

  void Forget(std::string_view replica) {
    for (Shard& shard : shards_) {
      const std::scoped_lock lock(shard.mutex);
      std::vector<std::pair<RequestSeries, std::int64_t>> gone;
      for (auto it = shard.requests.begin(); it != shard.requests.end();) {
        if (it->first.replica == replica) {
          gone.emplace_back(it->first, it->second);
          it = shard.requests.erase(it);
        } else {
          ++it;
        }
      }
      for (auto& [series, count] : gone) {
        series.replica = kGone;
        shard.requests[series] += count;
      }
    }
  }

  void Write(MetricFamilies& out) const {
    std::map<RequestSeries, std::int64_t> requests;
    std::map<std::string, ModelTally> models;
    std::map<std::string, Outcomes> tenants;
    Histogram<kDecisionBounds.size()> decision;
    Histogram<kQueueBounds.size()> queue;
    for (const Shard& shard : shards_) {
      const std::scoped_lock lock(shard.mutex);
      for (const auto& [series, count] : shard.requests) requests[series] += count;
      for (const auto& [model, tally] : shard.models) models[model].Add(tally);
      for (const auto& [tenant, outcomes] : shard.tenants) {
        Outcomes& sum = tenants[tenant];
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += outcomes[i];
      }
      decision.Add(shard.decision);
      queue.Add(shard.queue);
    }
    WriteRequests(requests, tenants, out);
    for (const auto& [model, tally] : models) WriteModel(model, tally, out);
    out.Histogram("sublet_route_decision_seconds", "Reading a prompt and choosing its replica.", {},
                  decision.Sample(kDecisionBounds));
    out.Histogram("sublet_route_queue_seconds", "In the queue, of requests that had to wait.", {},
                  queue.Sample(kQueueBounds));
  }

 private:
  Shard& ShardOfThisThread() {
    return shards_[std::hash<std::thread::id>()(std::this_thread::get_id()) % kShards];
  }

  static void CountSeries(Shard& shard, RequestSeriesView view) {
    auto at = shard.requests.find(view);
    if (at == shard.requests.end() && shard.requests.size() >= kSeriesMax) {
      view.model = kOther;
      view.replica = kOther;
      at = shard.requests.find(view);
    }
    if (at == shard.requests.end()) {
      RequestSeries series{std::string(view.model), std::string(view.replica), view.status,
                           view.outcome};
      at = shard.requests.emplace(std::move(series), 0).first;
    }
    ++at->second;
  }

  static void WriteRequests(const std::map<RequestSeries, std::int64_t>& requests,
                            const std::map<std::string, Outcomes>& tenants, MetricFamilies& out) {
    for (const auto& [series, count] : requests) {
      out.Counter("sublet_route_requests_total", "Requests that are over.",
                  {{"model", series.model},
                   {"replica", series.replica},
                   {"status", std::to_string(series.status)},
                   {"outcome", std::string(RequestOutcomeName(series.outcome))}},
                  count);
    }
    for (const auto& [tenant, outcomes] : tenants) {
      for (std::size_t i = 0; i < outcomes.size(); ++i) {
        if (outcomes[i] == 0) continue;
        const auto outcome = RequestOutcomeName(static_cast<RequestOutcome>(i));
        out.Counter("sublet_route_tenant_requests_total", "The same by tenant.",
                    {{"tenant", tenant}, {"outcome", std::string(outcome)}}, outcomes[i]);
      }
    }
  }

  static void WriteModel(const std::string& model, const ModelTally& tally, MetricFamilies& out) {
    const MetricLabels labels{{"model", model}};
    out.Histogram("sublet_route_time_to_first_token_seconds",
                  "From a request's first byte to its answer's first token.", labels,
                  tally.ttft.Sample(kTtftBounds));
    out.Histogram("sublet_route_time_per_output_token_seconds",
                  "After the first token, the mean of an answer.", labels,
                  tally.token.Sample(kTokenBounds));
    out.Histogram("sublet_route_request_seconds",
                  "From a request's first byte to the end of its answer.", labels,
                  tally.request.Sample(kRequestBounds));
    out.Counter("sublet_route_prompt_tokens_total", "As answers' usage says.", labels,
                tally.prompt_tokens);
    out.Counter("sublet_route_cached_tokens_total", "Of those, found in a KV cache; likewise.",
                labels, tally.cached_tokens);
    out.Counter("sublet_route_output_tokens_total", "As answers' usage says.", labels,
                tally.output_tokens);
    out.Counter("sublet_route_prompt_tokens_expected_total", "When it was decided.", labels,
                tally.prompt_tokens_expected);
    out.Counter("sublet_route_cached_tokens_expected_total", "When it was decided.", labels,
                tally.cached_tokens_expected);
  }

  std::array<Shard, kShards> shards_;
};

RouteMetrics::RouteMetrics() : impl_(std::make_unique<Impl>()) {}
RouteMetrics::~RouteMetrics() = default;

void RouteMetrics::Count(const AccessRecord& record) {
  impl_->Count(record);
}

void RouteMetrics::Forget(std::string_view replica) {
  impl_->Forget(replica);
}

void RouteMetrics::Write(MetricFamilies& out) const {
  impl_->Write(out);
}

}  // namespace sublet
