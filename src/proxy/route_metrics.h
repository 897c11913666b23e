// proxy/route_metrics.h
//
// What requests went through the router and how they fared, counted for Prometheus, and the page
// that Prometheus reads. docs/operating/route-metrics.md explains every name.
//
//   RouteMetrics metrics;
//   metrics.Count(record);                           // ProxyHooks::on_finished.
//   answer.body = RouteMetricsText(metrics, now);    // GET /metrics
//
// The number of series is bounded whatever clients send: a model is a label only where a replica
// served it, kModelsMax at most; the rest is "other". Requests of replicas that are gone are kept
// in sum, as replica "gone", so that a total never goes back.
//
// Thread safety: Count() from any thread, without waiting for other threads that count; everything
// else from any thread, too.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvcache/fleet_cache.h"
#include "kvcache/kv_subscriber.h"
#include "observe/metric_families.h"
#include "proxy/access_record.h"
#include "proxy/proxy_server.h"
#include "route/router.h"

namespace sublet {

class RouteMetrics {
 public:
  static constexpr std::size_t kModelsMax = 200;
  static constexpr std::size_t kTenantsMax = 500;
  // Combinations of model, replica, status and outcome, a thread; about 4 MiB of text in all.
  static constexpr std::size_t kSeriesMax = 8000;

  RouteMetrics();
  ~RouteMetrics();
  RouteMetrics(const RouteMetrics&) = delete;
  RouteMetrics& operator=(const RouteMetrics&) = delete;

  void Count(const AccessRecord& record);
  // A replica was removed: what it did goes into the sum of those that are gone.
  void Forget(std::string_view replica);

  void Write(MetricFamilies& out) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// One teller of replicas (proxy/replica_sources.h).
struct SourceView {
  std::string name;
  bool ok = true;
  std::string why;  // It isn't heard.
  std::size_t replicas = 0;
};

// What the page shows besides what was counted.
struct RouteView {
  std::string version;
  double uptime_s = 0;
  std::string policy;
  bool config_ok = true;
  std::int64_t config_loads = 0;
  std::int64_t config_failures = 0;
  ProxyCounters proxy;
  FleetCacheStatus cache;
  std::vector<ReplicaStatus> replicas;  // By name.
  // Of those that are set to announce their caches.
  std::map<std::string, KvSourceStatus, std::less<>> kv_sources;
  std::vector<SourceView> sources;
  std::int64_t access_log_dropped = 0;
  std::int64_t probes = 0;  // Of replicas: health, metrics, models.
  std::int64_t probes_failed = 0;
};

inline constexpr std::size_t kReplicaSeriesMax = 1000;  // Each has 25 lines: 3 MB of text.

std::string RouteMetricsText(const RouteMetrics& metrics, const RouteView& view);

}  // namespace sublet
