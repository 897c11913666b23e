// proxy/replica_watch.h
//
// Asks each replica, again and again, whether it is well, how much it has to do and what it serves.
//
//   ReplicaWatch watch(loop, settings, seed, reports);
//   watch.Add(slot, spec);                       // Asked at once, then at its intervals.
//   watch.Remove(slot);
//
// Each replica has one connection, which is kept. Intervals have a tenth of chance in them, so that
// a thousand replicas aren't asked at one moment; at most kAtOnce are asked at a time, in turn.
//
// What counts as well: an answer below 400, and one of 404, 405 and 501, since not every engine has
// a path for health and one that answers so is alive. What counts as unwell: no answer, a late one,
// anything else. It takes settings.health.failures in a row.
//
// Thread safety: the loop's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "http/event_loop.h"
#include "kvcache/fleet_cache.h"
#include "model/replica_spec.h"
#include "model/route_config.h"
#include "proxy/fetch.h"
#include "proxy/probe_gate.h"
#include "route/router.h"

namespace sublet {

struct WatchSettings {
  HealthSettings health;
  ScrapeSettings scrape;
  std::shared_ptr<FetchTrust> trust;  // For replicas over https; null: the system's.
  std::string bearer;                 // Sent to every replica; empty: nothing.
  // What it serves is asked again after so long: adapters come and go.
  double models_interval_s = 60;
};

// Where the answers go. Called from the loop's thread.
struct ReplicaReports {
  // At the first answer, and at each change.
  std::function<void(ReplicaSlot, ReplicaHealth, std::string why)> health;
  // The text of its metrics.
  std::function<void(ReplicaSlot, std::string_view text)> metrics;
  // Of replicas whose spec names no models; empty: it has no list of them.
  std::function<void(ReplicaSlot, std::vector<std::string> models)> models;
};

// The ids in the answer to GET /v1/models. Fails with kInvalid where it isn't such an answer.
Result<std::vector<std::string>> ModelsIn(std::string_view body);

class ReplicaWatch {
 public:
  static constexpr int kAtOnce = 64;

  ReplicaWatch(asio::io_context& loop, WatchSettings settings, std::uint64_t seed,
               ReplicaReports reports);
  ~ReplicaWatch();
  ReplicaWatch(const ReplicaWatch&) = delete;
  ReplicaWatch& operator=(const ReplicaWatch&) = delete;

  void Add(ReplicaSlot slot, const ReplicaSpec& spec);
  void Remove(ReplicaSlot slot);
  // From each replica's next question on.
  void Change(WatchSettings settings);

  std::int64_t questions() const { return questions_; }
  std::int64_t failures() const { return failures_; }  // Without a usable answer.

 private:
  struct Watched;
  struct Asker;

  static Task<void> Follow(ReplicaWatch& self, std::shared_ptr<Watched> replica);
  Task<Result<FetchResponse>> Ask(Asker& asker, std::string path, double timeout_s);
  Task<void> AskHealth(Watched& replica, Asker& asker);
  Task<void> AskMetrics(Watched& replica, Asker& asker);
  Task<void> AskModels(Watched& replica, Asker& asker);
  void Report(Watched& replica, bool well, std::string why);
  std::int64_t After(double seconds);

  asio::io_context& loop_;
  std::shared_ptr<const WatchSettings> settings_;
  std::minstd_rand random_;
  const ReplicaReports reports_;
  const std::shared_ptr<ProbeGate> gate_;
  std::map<ReplicaSlot, std::shared_ptr<Watched>> watched_;
  std::int64_t questions_ = 0;
  std::int64_t failures_ = 0;
};

}  // namespace sublet
