// The router's replicas: who is there, who serves what, who shares a GPU with whom.
#include <xxhash.h>

#include <cmath>

#include "base/check.h"
#include "route/router_core.h"

namespace sublet {
namespace {

// A slot rests while so many others are vacant: what still names it by then is late by minutes.
constexpr std::size_t kVacantMin = 32;

// A fleet that is added while the router starts isn't new, the router is.
bool BeginsSlowly(std::int64_t first_add_ns, std::int64_t now_ns) {
  return static_cast<double>(now_ns - first_add_ns) > kSlowStartSeconds * 1e9;
}

RateLearner LearnerOf(const ReplicaRecord& record) {
  return RateLearner({.sm_part = record.SmPart(),
                      .prefill_tokens_per_second = record.spec.share.prefill_tokens_per_second,
                      .decode_step_ms = record.spec.share.decode_step_ms});
}

Status Validate(const ReplicaSpec& spec) {
  const ReplicaShare& share = spec.share;
  const auto refuse = [&](std::string_view what) {
    return Fail(ErrorCode::kInvalid, std::string(what) + ": " + spec.name);
  };
  if (spec.name.empty()) return Fail(ErrorCode::kInvalid, "a replica has no name");
  if (share.sm_percent && !(*share.sm_percent > 0 && *share.sm_percent <= 100)) {
    return refuse("sm_percent is not above 0 and at most 100");
  }
  if (share.prefill_tokens_per_second && !(*share.prefill_tokens_per_second > 0)) {
    return refuse("prefill_tokens_per_second is not above 0");
  }
  if (share.decode_step_ms && !(*share.decode_step_ms >= 0)) {
    return refuse("decode_step_ms is negative");
  }
  if (share.kv_block_tokens && *share.kv_block_tokens < 1) {
    return refuse("kv_block_tokens is not above 0");
  }
  if (share.kv_blocks && *share.kv_blocks < 1) return refuse("kv_blocks is not above 0");
  if (spec.in_flight_max < 1) return refuse("in_flight_max is not above 0");
  return {};
}

}  // namespace

ReplicaRecord* RouterCore::Find(std::string_view name) const {
  const auto found = by_name.find(name);
  return found == by_name.end() ? nullptr : found->second;
}

ReplicaRecord* RouterCore::At(ReplicaSlot slot) const {
  return slot < by_slot.size() ? by_slot[slot].get() : nullptr;
}

ReplicaCacheOptions RouterCore::CacheOptionsOf(const ReplicaRecord& record) const {
  const ReplicaShare& share = record.spec.share;
  const std::optional<EngineLoad>& scraped = record.book.scraped();
  ReplicaCacheOptions cache_options{.model = {}, .blocks = share.kv_blocks};
  if (!record.spec.models.empty()) cache_options.model = record.spec.models.front();
  if (!cache_options.blocks && scraped) cache_options.blocks = scraped->blocks;
  if (share.kv_block_tokens) {
    cache_options.block_tokens = *share.kv_block_tokens;
  } else if (scraped && scraped->block_tokens) {
    cache_options.block_tokens = *scraped->block_tokens;
  }
  cache_options.events = record.spec.kv_events.has_value();
  return cache_options;
}

Result<ReplicaSlot> RouterCore::Add(const ReplicaSpec& spec, std::int64_t now_ns) {
  RETURN_IF_ERROR(Validate(spec));
  if (Find(spec.name) != nullptr) {
    return Fail(ErrorCode::kConflict, "a replica of this name is there already: " + spec.name);
  }
  ReplicaSlot slot = static_cast<ReplicaSlot>(by_slot.size());
  if (vacant.size() >= kVacantMin || (slot >= FleetCache::kSlotsMax && !vacant.empty())) {
    slot = vacant.front();
    vacant.pop_front();
  } else if (slot >= FleetCache::kSlotsMax) {
    return Fail(ErrorCode::kUnavailable,
                "no room for one more replica than " + std::to_string(FleetCache::kSlotsMax));
  } else {
    by_slot.emplace_back();
  }
  if (first_add_ns < 0) first_add_ns = mean_at_ns = now_ns;
  auto record = std::make_shared<ReplicaRecord>();
  record->spec = spec;
  record->slot = slot;
  record->identity = XXH3_64bits(spec.name.data(), spec.name.size());
  record->models_known = !spec.models.empty();
  if (BeginsSlowly(first_add_ns, now_ns)) record->slow_since_ns = now_ns;
  record->rates = LearnerOf(*record);
  record->TakeSpec();
  caches.Add(slot, CacheOptionsOf(*record), now_ns);
  by_name.emplace(spec.name, record.get());
  by_slot[slot] = std::move(record);
  Rebuild(now_ns);
  return slot;
}

void RouterCore::Remove(ReplicaRecord& record) {
  NoteAll();  // Of a slot that may be another's next.
  const std::shared_ptr<ReplicaRecord> last = by_slot[record.slot];
  prefills -= record.book.prefills();
  record.gone = true;
  caches.Drop(record.slot);
  vacant.push_back(record.slot);
  by_slot[record.slot] = nullptr;
  by_name.erase(record.spec.name);
  Rebuild(last_now_ns);
  record.gpu = nullptr;
}

Status RouterCore::Update(ReplicaRecord& record, const ReplicaSpec& spec, std::int64_t now_ns) {
  RETURN_IF_ERROR(Validate(spec));
  const ReplicaSpec before = record.spec;
  record.spec = spec;
  record.TakeSpec();
  if (spec.models.empty() && record.models_known) {
    record.spec.models = before.models;  // As it said itself.
  }
  record.models_known |= !spec.models.empty();
  const bool another_engine = before.url != spec.url;
  if (another_engine) {
    NoteAll();
    caches.Drop(record.slot);
    caches.Add(record.slot, CacheOptionsOf(record), now_ns);
    record.breaker = Breaker(options.breaker);
    record.health = ReplicaHealth::kUnknown;
    record.why.clear();
    record.full_until_ns = 0;
    if (BeginsSlowly(first_add_ns, now_ns)) record.slow_since_ns = now_ns;
  } else {
    caches.Update(record.slot, CacheOptionsOf(record), now_ns);
  }
  if (another_engine || !(before.share == spec.share)) record.rates = LearnerOf(record);
  Rebuild(now_ns);
  return {};
}

void RouterCore::Rebuild(std::int64_t now_ns) {
  pressures_old = true;
  unlisted.replicas.clear();
  all.replicas.clear();
  for (auto& [name, served] : models) served.replicas.clear();
  for (auto& [name, gpu] : gpus) {
    gpu->MoveTo(now_ns);
    gpu->tenants.clear();
  }
  for (const std::shared_ptr<ReplicaRecord>& record : by_slot) {
    if (!record) continue;
    all.replicas.push_back(record.get());
    if (!record->models_known || record->spec.models.empty()) {
      unlisted.replicas.push_back(record.get());
    }
    for (const std::string& model : record->spec.models) {
      models[model].replicas.push_back(record.get());
    }
    record->gpu = nullptr;
    if (record->spec.share.gpu.empty()) continue;
    std::unique_ptr<GpuRecord>& gpu = gpus[record->spec.share.gpu];
    if (!gpu) {
      gpu = std::make_unique<GpuRecord>();
      gpu->moved_ns = now_ns;
      gpu->work_ns = static_cast<double>(now_ns);
    }
    record->gpu = gpu.get();
    record->tenant_index = static_cast<std::uint32_t>(gpu->tenants.size());
    gpu->tenants.push_back(record.get());
  }
  std::erase_if(models, [](const auto& entry) { return entry.second.replicas.empty(); });
  std::erase_if(gpus, [](const auto& entry) { return entry.second->tenants.empty(); });
  tenancies.resize(gpus.size());
  std::size_t index = 0;
  for (auto& [name, gpu] : gpus) {
    gpu->index = index++;
    SetDemand(*gpu);
  }
}

void RouterCore::BeforeLoadChanges(ReplicaRecord& record, std::int64_t now_ns) {
  if (record.gpu != nullptr) record.gpu->MoveTo(now_ns);
  if (record.gone) return;
  record.busy.MoveTo(now_ns, record.book.prefills() > 0);
  if (now_ns > mean_at_ns) {
    const double passed_s = static_cast<double>(now_ns - mean_at_ns) / 1e9;
    const double now = static_cast<double>(prefills) / static_cast<double>(all.replicas.size());
    mean_prefills += -std::expm1(-passed_s / kLoadMeanSeconds) * (now - mean_prefills);
    mean_at_ns = now_ns;
  }
  prefills -= record.book.prefills();
}

void RouterCore::AfterLoadChanged(ReplicaRecord& record) {
  if (record.gone) return;
  prefills += record.book.prefills();
  if (record.gpu != nullptr) SetDemand(*record.gpu);
}

void RouterCore::SetDemand(GpuRecord& gpu) {
  gpu.shown_old = true;
  gpu.demand = 0;
  for (const ReplicaRecord* tenant : gpu.tenants) {
    if (tenant->book.prefills() > 0) gpu.demand += tenant->SmPart() * kComputeAlone;
  }
}

void RouterCore::Settle(ReplicaRecord& record, std::int64_t now_ns) {
  BeforeLoadChanges(record, now_ns);
  record.book.Settle(record.WorkAt(now_ns), record.rates.PrefillTokensPerSecond());
  AfterLoadChanged(record);
}

}  // namespace sublet
