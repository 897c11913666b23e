#include "kvcache/fleet_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "kvcache/fleet_books.h"

namespace sublet {
namespace {

constexpr std::size_t kBytesMin = std::size_t{4} << 20;
constexpr std::size_t kBytesMax = std::size_t{8} << 30;

std::size_t Budget(const FleetCacheOptions& options) {
  return std::clamp(options.bytes_max, kBytesMin, kBytesMax);
}

std::int64_t CapacityOf(const ReplicaCacheOptions& options) {
  return options.blocks.value_or(FleetCache::kBlocksAssumed);
}

// A size of block that can't be, from a config or a metric, is taken for vLLM's default.
ReplicaCacheOptions Sane(ReplicaCacheOptions options) {
  if (options.block_tokens <= 0) options.block_tokens = ReplicaCacheOptions{}.block_tokens;
  if (options.blocks && *options.blocks <= 0) options.blocks.reset();
  return options;
}

}  // namespace

std::string_view CacheKnowledgeName(CacheKnowledge knowledge) {
  switch (knowledge) {
    case CacheKnowledge::kExact:
      return "EXACT";
    case CacheKnowledge::kStale:
      return "STALE";
    case CacheKnowledge::kApprox:
      return "APPROX";
  }
  return "";
}

FleetBooks::FleetBooks(const FleetCacheOptions& options)
    : index_(Budget(options) / 16 * 13),
      texts_(Budget(options) / 16),
      transient_(Budget(options) / 8),
      walk_(index_) {}

// ---- replicas come and go ----------------------------------------------------------------------

void FleetBooks::Add(ReplicaSlot slot, const ReplicaCacheOptions& options, std::int64_t now_ns) {
  const std::lock_guard lock(mutex_);
  CHECK(slot < FleetCache::kSlotsMax && Find(slot) == nullptr);
  const ReplicaCacheOptions sane = Sane(options);
  if (replicas_.size() <= slot) replicas_.resize(slot + 1);
  replicas_[slot] = std::make_unique<Replica>(transient_);
  Replica& replica = *replicas_[slot];
  replica.options = sane;
  replica.since_ns = now_ns;
  replica.why = sane.events ? "no event yet" : "sends no events";
  OpenLane(slot, replica);
}

void FleetBooks::Drop(ReplicaSlot slot) {
  const std::lock_guard lock(mutex_);
  Replica* const replica = Find(slot);
  if (replica == nullptr) return;
  CloseLane(*replica);
  replicas_[slot].reset();
  while (!replicas_.empty() && replicas_.back() == nullptr) replicas_.pop_back();
}

void FleetBooks::Update(ReplicaSlot slot, const ReplicaCacheOptions& options, std::int64_t now_ns) {
  {
    const std::lock_guard lock(mutex_);
    Replica* const replica = Find(slot);
    if (replica == nullptr) return;
    const ReplicaCacheOptions sane = Sane(options);
    if (sane.model == replica->options.model &&
        sane.block_tokens == replica->options.block_tokens) {
      if (replica->knowledge == CacheKnowledge::kApprox && sane.events != replica->options.events) {
        replica->why = sane.events ? "no event yet" : "sends no events";
      }
      replica->options = sane;
      Trim(*replica, UseMomentOf(now_ns));
      return;
    }
  }
  Drop(slot);
  Add(slot, options, now_ns);
}

FleetBooks::Replica* FleetBooks::Find(ReplicaSlot slot) const {
  return slot < replicas_.size() ? replicas_[slot].get() : nullptr;
}

FleetBooks::Replica* FleetBooks::InEpoch(ReplicaSlot slot, std::uint64_t epoch) {
  Replica* const replica = Find(slot);
  return replica != nullptr && replica->epoch == epoch ? replica : nullptr;
}

void FleetBooks::OpenLane(ReplicaSlot slot, Replica& replica) {
  replica.lane = index_.Open();
  replica.group = groups_.Join(replica.options.model, replica.options.block_tokens, replica.lane);
  replica.epoch = next_epoch_++;
  slot_of_[replica.lane] = slot;
}

void FleetBooks::CloseLane(Replica& replica) {
  groups_.Leave(replica.group, replica.lane);
  index_.Retire(replica.lane);
  replica.runs.Clear();
  for (const Settling& settling : replica.settling) Forget(settling.prediction);
  replica.settling.clear();
  replica.texts_in_flight = 0;
  replica.evicted_age_s.reset();
  replica.overflowed = false;
}

// All is forgotten, what was predicted too: the requests that it was predicted by are over, or
// begin anew with the engine.
void FleetBooks::Restart(ReplicaSlot slot, Replica& replica) {
  CloseLane(replica);
  OpenLane(slot, replica);
}

// ---- what is known -----------------------------------------------------------------------------

void FleetBooks::SetKnowledge(ReplicaSlot slot, CacheKnowledge knowledge, std::string why,
                              bool restarted, std::int64_t now_ns) {
  const std::lock_guard lock(mutex_);
  Replica* const replica = Find(slot);
  if (replica == nullptr) return;
  if (restarted) {
    ++replica->restarts;
    Restart(slot, *replica);
  }
  if (knowledge != replica->knowledge) {
    if (knowledge == CacheKnowledge::kStale) ++replica->gaps;
    replica->since_ns = now_ns;
    replica->knowledge = knowledge;
  }
  replica->why = std::move(why);
  Trim(*replica, UseMomentOf(now_ns));
}

ReplicaCacheStatus FleetBooks::StatusOf(ReplicaSlot slot, std::int64_t now_ns) {
  SettleDue(slot, now_ns);
  const std::lock_guard lock(mutex_);
  const Replica* const replica = Find(slot);
  if (replica == nullptr) return {.why = "there is no such replica"};
  ReplicaCacheStatus status{.knowledge = replica->knowledge,
                            .why = replica->why,
                            .since_ns = replica->since_ns,
                            .blocks_held = index_.Announced(replica->lane).count,
                            .blocks_predicted = index_.Predicted(replica->lane).count,
                            .blocks_capacity = replica->options.blocks,
                            .block_tokens = replica->options.block_tokens,
                            .events_applied = replica->events_applied,
                            .blocks_stored = replica->blocks_stored,
                            .blocks_removed = replica->blocks_removed,
                            .blocks_unplaced = replica->blocks_unplaced,
                            .gaps = replica->gaps,
                            .restarts = replica->restarts,
                            .tail_age_s = PressureIn(*replica, UseMomentOf(now_ns)).tail_age_s};
  if (replica->blocks_unplaced > 0) {
    status.why += fmt::format("{}blocks that couldn't be placed: {}",
                              status.why.empty() ? "" : "; ", replica->blocks_unplaced);
  }
  return status;
}

CachePressure FleetBooks::PressureIn(const Replica& replica, UseMoment now) const {
  const LaneHoldings& announced = index_.Announced(replica.lane);
  const LaneHoldings& predicted = index_.Predicted(replica.lane);
  const std::int64_t block_tokens = replica.options.block_tokens;
  CachePressure pressure{
      .there = true,
      .knowledge = replica.knowledge,
      .block_tokens = replica.options.block_tokens,
      .tokens_capacity = CapacityOf(replica.options) * block_tokens,
      .tokens_held = (announced.count + predicted.count - predicted.texts) * block_tokens +
                     predicted.texts * kTextBlockTokens,
      .tail_age_s = {}};
  if (replica.knowledge == CacheKnowledge::kExact) {
    pressure.tail_age_s = replica.evicted_age_s;
  } else if (replica.overflowed) {
    double age_s = 0;
    for (const LaneHoldings* list : {&announced, &predicted}) {
      if (list->count > 0) age_s = std::max(age_s, UseAgeSeconds(list->oldest_used, now));
    }
    pressure.tail_age_s = age_s;
  }
  return pressure;
}

CachePressure FleetBooks::PressureOf(ReplicaSlot slot, std::int64_t now_ns) {
  const std::lock_guard lock(mutex_);
  const Replica* const replica = Find(slot);
  return replica == nullptr ? CachePressure{} : PressureIn(*replica, UseMomentOf(now_ns));
}

void FleetBooks::Pressures(std::int64_t now_ns, std::vector<CachePressure>& by_slot) {
  const UseMoment now = UseMomentOf(now_ns);
  const std::lock_guard lock(mutex_);
  by_slot.assign(replicas_.size(), {});
  for (std::size_t slot = 0; slot < replicas_.size(); ++slot) {
    if (replicas_[slot] != nullptr) by_slot[slot] = PressureIn(*replicas_[slot], now);
  }
}

FleetCacheStatus FleetBooks::Status() {
  const std::lock_guard lock(mutex_);
  return {.bytes = index_.bytes() + texts_.bytes() + transient_.used(),
          .blocks = index_.records(),
          .holdings = index_.holdings(),
          .forgotten = index_.forgotten(),
          .texts_learnt = texts_learnt_,
          .text_blocks = texts_.size(),
          .predictions = static_cast<std::int64_t>(predictions_.size())};
}

void FleetBooks::Audit() {
  const std::lock_guard lock(mutex_);
  index_.Audit();
}

// ---- the public face ---------------------------------------------------------------------------

FleetCache::FleetCache(const FleetCacheOptions& options)
    : books_(std::make_unique<FleetBooks>(options)) {}
FleetCache::~FleetCache() = default;

void FleetCache::Add(ReplicaSlot slot, const ReplicaCacheOptions& options, std::int64_t now_ns) {
  books_->Add(slot, options, now_ns);
}
void FleetCache::Drop(ReplicaSlot slot) {
  books_->Drop(slot);
}
void FleetCache::Update(ReplicaSlot slot, const ReplicaCacheOptions& options, std::int64_t now_ns) {
  books_->Update(slot, options, now_ns);
}
void FleetCache::Apply(ReplicaSlot slot, const KvEventBatch& batch, std::int64_t now_ns) {
  books_->Apply(slot, batch, now_ns);
}
void FleetCache::SetKnowledge(ReplicaSlot slot, CacheKnowledge knowledge, std::string why,
                              bool restarted, std::int64_t now_ns) {
  books_->SetKnowledge(slot, knowledge, std::move(why), restarted, now_ns);
}
MatchSummary FleetCache::Match(const RequestPrefix& prefix,
                               std::vector<CacheMatch>& matches) const {
  return books_->Match(prefix, matches);
}
PredictionId FleetCache::Predict(ReplicaSlot slot, const RequestPrefix& prefix,
                                 std::int64_t now_ns) {
  return books_->Predict(slot, prefix, now_ns);
}
void FleetCache::Confirm(ReplicaSlot slot, PredictionId id,
                         std::optional<std::uint32_t> prompt_tokens, std::int64_t now_ns) {
  books_->Confirm(slot, id, prompt_tokens, now_ns);
}
void FleetCache::Retract(ReplicaSlot slot, PredictionId id) {
  books_->Retract(slot, id);
}
void FleetCache::LearnTokens(const RequestPrefix& prefix, std::span<const TokenId> tokens) {
  books_->LearnTokens(prefix, tokens);
}
ReplicaCacheStatus FleetCache::StatusOf(ReplicaSlot slot, std::int64_t now_ns) const {
  return books_->StatusOf(slot, now_ns);
}
CachePressure FleetCache::PressureOf(ReplicaSlot slot, std::int64_t now_ns) const {
  return books_->PressureOf(slot, now_ns);
}
void FleetCache::Pressures(std::int64_t now_ns, std::vector<CachePressure>& by_slot) const {
  books_->Pressures(now_ns, by_slot);
}
FleetCacheStatus FleetCache::Status() const {
  return books_->Status();
}
void FleetCache::Audit() const {
  books_->Audit();
}

}  // namespace sublet
