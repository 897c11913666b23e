// route/router.h
//
// Which replica a request goes to, and the books that the decision rests on.
//
//   FleetCache caches;
//   Router router({.policy = "cost"}, caches);
//   ASSIGN_OR_RETURN(const ReplicaSlot slot, router.Add(spec, now_ns));
//   ASSIGN_OR_RETURN(Lease lease, router.Choose({.prefix = &prefix, .tenant = "shop"}, now_ns));
//   lease.decision().replica                 // "chat/0"
//   ... the request is sent to lease.url() ...
//   lease.OnSent();                          // Now that it is under way, the cache may learn of
//   it. lease.OnFirstToken(now_ns);              // Its prefill is done. lease.OnTokens(count,
//   now_ns);           // As they come. lease.Finish({.outcome = Outcome::kServed, .prompt_tokens =
//   812}, now_ns);
//
// A request counts as load from the moment at which it is chosen, in tokens that its replica must
// still prefill and in sequences that decode, until its lease is finished; a lease that is dropped
// unfinished (the client went away, a coroutine was cancelled) finishes itself as kCancelled. So
// nothing is counted twice, late, or for ever.
//
// Choose() is a pure policy (route/policy.h) over a snapshot: what is held (kvcache/fleet_cache.h),
// what is queued, how fast the replica's share of its GPU makes it and how much its co-tenants slow
// it. It fails with kNotFound where no replica serves the model, kUnavailable where those that do
// are all down, and kConflict where all are full: whoever asked waits in an AdmissionQueue
// (route/admission_queue.h) and asks again.
//
// A replica whose models aren't known (none were named, and it hasn't said yet) is asked for a
// model that no other replica serves; a request that names no model goes to any.
//
// What may surprise: a request that doesn't stream tells nobody when its prefill is done. Where
// `prefix->stream` is false, that moment is reckoned from the replica's rate; OnFirstToken() may be
// called all the same, by whoever knows better. OnTokens() counts from the first token on.
//
// Thread safety: all calls, from any thread; one lease, one thread at a time. Time is a parameter:
// the same calls give the same decisions, which is how a trace is replayed in virtual time. It may
// not go back by much: where it does, the latest time that was seen is taken.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kvcache/fleet_cache.h"
#include "model/replica_spec.h"
#include "route/breaker.h"
#include "route/hedging.h"

namespace sublet {

struct RouteQuery {
  const RequestPrefix* prefix = nullptr;  // REQUIRES: not null; lives as long as the call.
  std::string_view tenant = {};
  std::string_view session = {};        // Overrides the prefix's.
  std::vector<ReplicaSlot> tried = {};  // Failed for this request already; not again.
  std::string_view pinned = {};         // A replica's name: that one or none.
  bool explain = false;                 // Decision::candidates is filled in.
};

// What a candidate would have cost: milliseconds until its first token, and what others lose by it
// (route/cost_model.h).
struct CandidateCost {
  std::string replica;
  double cost_ms = 0;      // The sum of what follows.
  double queue_ms = 0;     // Prefill ahead of it.
  double prefill_ms = 0;   // Of what it doesn't hold.
  double later_ms = 0;     // Those who come later wait for that, too.
  double pressure_ms = 0;  // Its cache is nearly full of requests in flight.
  double cotenant_ms = 0;  // Slower for those that share its GPU, and they for it.
  double decode_ms = 0;    // Steps of what decodes there already.
  std::uint32_t cached_tokens = 0;
  std::uint32_t uncached_tokens = 0;
  CacheKnowledge knowledge = CacheKnowledge::kApprox;
};

struct Decision {
  ReplicaSlot slot = 0;
  std::string replica;
  std::string_view policy;
  std::uint32_t prompt_tokens = 0;
  std::uint32_t cached_tokens = 0;    // Expected there.
  std::uint32_t uncached_tokens = 0;  // To be prefilled there, as it is booked.
  // "holds 4096 of 5120 tokens; the least cost, 130 ms; next best chat/2, 310 ms".
  std::string reason;
  // Without a token after so long, a second replica may be asked; absent: don't (route/hedging.h).
  std::optional<double> hedge_after_ms;
  std::vector<CandidateCost> candidates;  // By cost; empty unless asked for.
};

enum class Outcome {
  kServed,       // Answered in full.
  kClientError,  // 4xx: the request's fault. Says nothing about the replica's health.
  kOverloaded,   // 429 or 503 from the replica: it is well, and full.
  kFailed,       // Refused, reset, timed out, 5xx, garbage.
  kCancelled,    // The client went away.
};

struct Finish {
  Outcome outcome = Outcome::kServed;
  // From the answer's usage, where it has one.
  std::optional<std::uint32_t> prompt_tokens = {};
  std::optional<std::uint32_t> cached_tokens = {};
  std::optional<std::uint32_t> output_tokens = {};
};

class Router;
struct LeaseState;
struct RouterCore;

// One request's place in the books. Moved from, it may only be assigned to or dropped.
class Lease {
 public:
  Lease(Lease&&) noexcept;
  Lease& operator=(Lease&&) noexcept;
  ~Lease();

  const Decision& decision() const;
  const std::string& url() const;

  // What the prompt leaves in the replica's cache is noted by now, at some hundred nanoseconds a
  // block; or at the next Choose(), which must know of it, where that comes first. So the request
  // itself doesn't wait for it.
  void OnSent();
  void OnFirstToken(std::int64_t now_ns);
  void OnTokens(int count, std::int64_t now_ns);
  // Once; what is reported later counts for nothing.
  void Finish(const sublet::Finish& finish, std::int64_t now_ns);

 private:
  friend class Router;
  explicit Lease(std::unique_ptr<LeaseState> state);
  std::unique_ptr<LeaseState> state_;
};

// What a scrape of a replica's metrics said (route/engine_metrics.h); absent: it has no such
// metric.
struct EngineLoad {
  std::optional<double> waiting = {};
  std::optional<double> running = {};
  std::optional<double> kv_used = {};  // 0 to 1.
  std::optional<int> block_tokens = {};
  std::optional<std::int64_t> blocks = {};
};

enum class ReplicaHealth { kUnknown, kHealthy, kUnhealthy };

// Everything that is known about one replica, for GET /workers, metrics and the live view.
struct ReplicaStatus {
  ReplicaSpec spec;
  ReplicaSlot slot = 0;
  ReplicaHealth health = ReplicaHealth::kUnknown;
  std::string why;      // Not healthy, or the breaker is open.
  std::string breaker;  // "closed", "open", "half-open"
  bool draining = false;
  double slow_start = 1;  // The part of its due that it gets.
  int in_flight = 0;
  int decoding = 0;
  double prefill_tokens_queued = 0;
  double prefill_tokens_per_second = 0;
  bool rate_learnt = false;  // Otherwise told or assumed.
  double decode_step_ms = 0;
  std::optional<EngineLoad> scraped;
  std::optional<double> scraped_age_s;
  ReplicaCacheStatus cache;
  std::int64_t chosen = 0;  // Since the start, as are those below.
  std::int64_t served = 0;
  std::int64_t failed = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;  // As its answers said, else as was expected.
};

struct RouterOptions {
  std::string policy = "cost";  // PolicyNames() has them all.
  std::uint64_t seed = 1;       // Of what is drawn at random.
  BreakerOptions breaker = {};
  HedgeOptions hedging = {};  // Off by default.
};

class Router {
 public:
  // `caches` must outlive the router; the router adds and drops its slots. Fails with kUsage for a
  // policy that doesn't exist, with the names of those that do.
  static Result<std::unique_ptr<Router>> Make(const RouterOptions& options, FleetCache& caches);
  ~Router();

  // Fails with kConflict where the name is taken, kUnavailable where FleetCache::kSlotsMax are
  // there. A new replica starts slowly (route/slow_start.h).
  Result<ReplicaSlot> Add(const ReplicaSpec& spec, std::int64_t now_ns);
  // Takes no new requests; Remove() once its last lease is finished, or now. Leases of a replica
  // that is gone stay valid and count for nothing.
  // Both fail with kNotFound.
  Status Drain(std::string_view name);
  Status Remove(std::string_view name);
  // The one of that name. With another URL it is another engine: its cache, its breaker and what
  // was learnt of it are forgotten.
  Status Update(const ReplicaSpec& spec, std::int64_t now_ns);

  Result<Lease> Choose(const RouteQuery& query, std::int64_t now_ns);

  void OnHealth(ReplicaSlot slot, ReplicaHealth health, std::string why, std::int64_t now_ns);
  void OnScrape(ReplicaSlot slot, const EngineLoad& load, std::int64_t now_ns);
  // What it said it serves, in place of what the spec names; empty: it has no list, and may serve
  // anything.
  void OnModels(ReplicaSlot slot, std::vector<std::string> models);

  Status SetPolicy(std::string_view name);  // kUsage, as Make().
  std::string_view policy() const;
  // By name. Asks the caches about each, some microseconds a replica.
  std::vector<ReplicaStatus> Replicas(std::int64_t now_ns) const;
  std::optional<ReplicaSlot> SlotOf(std::string_view name) const;
  std::vector<std::string> Models() const;  // Served by any, sorted.

 private:
  explicit Router(std::shared_ptr<RouterCore> core);
  std::shared_ptr<RouterCore> core_;  // Leases hold it as well.
};

}  // namespace sublet
