// route/router_core.h
//
// Inside the router: its state, which leases share with it.
//
// One lock for everything. It is held while a prompt is matched and its prediction is made, so that
// of two siblings that arrive at once the second sees where the first one went.
//
// Thread safety: hold `mutex`, but for what never changes.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvcache/fleet_cache.h"
#include "route/distinction.h"
#include "route/policy.h"
#include "route/replica_record.h"
#include "route/router.h"
#include "route/snapshot.h"

namespace sublet {

// Requests for one model, and who serves it.
struct ServedModel {
  std::vector<ReplicaRecord*> replicas;  // By slot.
  std::uint64_t requests = 0;
};

// A replica's cache, as ReplicaView has it.
struct CacheUse {
  CacheKnowledge knowledge = CacheKnowledge::kApprox;
  double tokens_in_use = 0;
  double tokens_capacity = 1e18;
};

struct RouterCore {
  RouterCore(const RouterOptions& router_options, const Policy& first_policy, FleetCache& fleet);

  // ---- the set of replicas (replica_set.cc)
  Result<ReplicaSlot> Add(const ReplicaSpec& spec, std::int64_t now_ns);
  void Remove(ReplicaRecord& record);
  Status Update(ReplicaRecord& record, const ReplicaSpec& spec, std::int64_t now_ns);
  ReplicaRecord* Find(std::string_view name) const;
  ReplicaRecord* At(ReplicaSlot slot) const;
  // What follows from the specs: who serves which model, who shares a GPU with whom.
  void Rebuild(std::int64_t now_ns);
  ReplicaCacheOptions CacheOptionsOf(const ReplicaRecord& record) const;

  // ---- the decision (decide.cc)
  // Fills in `decision`; what was chosen is then views[index] and candidates[index].
  Result<std::size_t> Decide(const RouteQuery& query, std::int64_t now_ns, Decision& decision);
  Result<ServedModel*> ServersOf(const RouteQuery& query);
  Status Gather(const ServedModel& served, const RouteQuery& query, std::int64_t now_ns);
  void LookAtCaches(std::int64_t now_ns);
  void MakeViews(std::int64_t now_ns);
  ReplicaView ViewOf(ReplicaRecord& record, const CacheMatch& match, std::int64_t now_ns);
  CacheUse CacheUseOf(const ReplicaRecord& record, std::int64_t now_ns) const;
  // Brings what `tenancies` has of a shared GPU up to date.
  void Show(GpuRecord& gpu, std::int64_t now_ns);

  // ---- what the caches are still to be told (lease.cc)
  void NoteAll();

  // ---- time
  std::int64_t SeenNow(std::int64_t now_ns) {
    return last_now_ns = now_ns > last_now_ns ? now_ns : last_now_ns;
  }
  // Around whatever changes the books: clocks and means go on at the old pace until now, then at
  // the new one.
  void BeforeLoadChanges(ReplicaRecord& record, std::int64_t now_ns);
  void AfterLoadChanged(ReplicaRecord& record);
  void SetDemand(GpuRecord& gpu);
  // Silent requests that must be prefilled by now (route/load_book.h).
  void Settle(ReplicaRecord& record, std::int64_t now_ns);
  double DecodeSlowdownOf(const ReplicaRecord& record) const;

  mutable std::mutex mutex;
  const RouterOptions options;
  FleetCache& caches;
  bool closed = false;  // The router is gone, and perhaps the caches with it.
  Policy policy;
  std::int64_t last_now_ns = 0;
  std::int64_t first_add_ns = -1;

  std::vector<std::shared_ptr<ReplicaRecord>> by_slot;  // Null: vacant.
  std::deque<ReplicaSlot> vacant;                       // The longest first.
  std::map<std::string, ReplicaRecord*, std::less<>> by_name;
  std::map<std::string, ServedModel, std::less<>> models;
  ServedModel unlisted;  // Those whose models aren't known.
  ServedModel all;
  std::map<std::string, std::unique_ptr<GpuRecord>> gpus;  // Of a name.
  std::vector<CoTenancy> tenancies;                        // As GpuRecord::index has it.

  // Requests that wait for their first token, of all replicas: now, and the mean of the last minute
  // of a replica.
  int prefills = 0;
  double mean_prefills = 0;
  std::int64_t mean_at_ns = 0;

  Distinction distinction;
  std::uint64_t draws = 0;
  std::vector<CachePressure> pressures;  // By slot, as of then:
  std::int64_t pressures_seen_ns = 0;
  bool pressures_old = true;  // Somebody came, or is another one.

  std::vector<LeaseState*> to_note;  // Chosen, and not yet noted in the caches.

  // Kept for their memory.
  std::vector<CacheMatch> matches;
  std::vector<ReplicaView> views;
  std::vector<ReplicaRecord*> candidates;
  std::vector<TenantLoad> loads;
};

}  // namespace sublet
