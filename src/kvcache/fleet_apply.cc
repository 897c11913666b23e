// FleetCache: events into the index.
#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

#include "kvcache/fleet_books.h"

namespace sublet {
namespace {

// Of blocks, before others get their turn: some 50 us.
constexpr std::size_t kBlocksATurn = 128;
// How much the newest evicted block counts in their average age.
constexpr double kEvictedWeight = 1.0 / 16;

std::string_view ExtraOf(const KvEvent& event, std::size_t block) {
  return block < event.extra.size() ? std::string_view(event.extra[block]) : std::string_view();
}

BlockHash ExtendBy(const KvEvent& event, std::size_t block, std::size_t size, BlockHash parent) {
  const BlockHash hash = ExtendChain(parent, std::span(event.tokens).subspan(block * size, size));
  const std::string_view extra = ExtraOf(event, block);
  const bool in_seed = block == 0 && !event.parent;
  return in_seed || extra.empty() ? hash : ExtendChain(hash, extra);
}

}  // namespace

// Where a sequence of stored blocks has got to, over the pieces of an event and over the events
// that continue each other in one batch.
struct FleetBooks::RunInHand {
  bool placed = false;  // The blocks that come have a place in a chain.
  bool kept = false;    // It is remembered, since a prompt of text may be learnt from it.
  int block_tokens = 1;
  EngineHash last = 0;  // The engine's name for the block before the next.
  BlockHash at = 0;     // Of that block, or the seed.
  BlockHash parent = 0;
  std::uint32_t begun_at = 0;  // Blocks of the chain before the run, where it is kept.
  std::uint32_t blocks = 0;    // Of the run so far.
};

void FleetBooks::Apply(ReplicaSlot slot, const KvEventBatch& batch, std::int64_t now_ns) {
  SettleDue(slot, now_ns);
  std::unique_lock lock(mutex_);
  Replica* replica = Find(slot);
  if (replica == nullptr) return;
  std::uint64_t epoch = replica->epoch;
  RunInHand run;
  std::size_t left = kBlocksATurn;
  for (const KvEvent& event : batch.events) {
    std::size_t from = 0;
    do {
      const std::size_t to = std::min(event.blocks.size(), from + left);
      ApplyPiece(slot, *replica, event, from, to, run, now_ns);
      epoch = replica->epoch;  // A cleared cache begins another.
      left -= std::max<std::size_t>(1, to - from);
      from = to;
      if (left > 0) continue;
      left = kBlocksATurn;
      lock.unlock();
      lock.lock();
      replica = InEpoch(slot, epoch);
      if (replica == nullptr) return;
    } while (from < event.blocks.size());
    ++replica->events_applied;
  }
  EndRun(*replica, run, now_ns);
  Trim(*replica, UseMomentOf(now_ns));
}

void FleetBooks::ApplyPiece(ReplicaSlot slot, Replica& replica, const KvEvent& event,
                            std::size_t from, std::size_t to, RunInHand& run, std::int64_t now_ns) {
  const UseMoment now = UseMomentOf(now_ns);
  switch (event.what) {
    case KvEvent::What::kStored:
      if (event.tokens.empty()) {
        StoreWithoutTokens(replica, event, from, to, now);
        return;
      }
      if (from == 0) BeginStored(slot, replica, event, run, now_ns);
      StoreBlocks(replica, event, from, to, run, now);
      return;
    case KvEvent::What::kRemoved:
      RemoveBlocks(replica, event, from, to, now);
      return;
    case KvEvent::What::kCleared:
      run = {};
      Restart(slot, replica);
      return;
  }
}

// Whether blocks of this size have a place; takes it for the replica's own where nothing speaks
// against it.
bool FleetBooks::TakesBlocksOf(ReplicaSlot slot, Replica& replica, int block_tokens) {
  if (block_tokens == replica.options.block_tokens) return true;
  if (block_tokens <= 0 || index_.Announced(replica.lane).count > 0) return false;
  CloseLane(replica);
  // What is in its place must fit: the capacity in tokens stays what it was.
  if (replica.options.blocks) {
    replica.options.blocks = std::max<std::int64_t>(
        1, *replica.options.blocks * replica.options.block_tokens / block_tokens);
  }
  replica.options.block_tokens = block_tokens;
  OpenLane(slot, replica);
  return true;
}

void FleetBooks::BeginStored(ReplicaSlot slot, Replica& replica, const KvEvent& event,
                             RunInHand& run, std::int64_t now_ns) {
  if (run.placed && event.parent && *event.parent == run.last) return;
  EndRun(replica, run, now_ns);
  if (!TakesBlocksOf(slot, replica, event.block_tokens)) return;
  if (!event.lora.empty()) groups_.SeeAdapter(replica.group, event.lora);
  run.block_tokens = event.block_tokens;
  run.kept = replica.texts_in_flight > 0 && event.tier == KvTier::kGpu;
  PlacedBlock before;
  if (event.parent) {
    const auto parent = index_.Find(replica.lane, *event.parent);
    if (!parent) return;
    before = *parent;
    run.at = run.parent = before.hash;
    const bool answer = event.blocks.size() == 1;
    if (run.kept && !answer) {
      const auto through = BlocksThrough(replica, before.hash);
      run.kept = through.has_value();
      run.begun_at = through.value_or(0);
    }
  } else {
    run.at = groups_.SeedOf(replica.group, event.lora, ExtraOf(event, 0));
  }
  run.placed = true;
  index_.BeginRun(replica.lane, before);
}

// Tips of runs are remembered; for another block, as where a prompt leaves the one that it shares
// its beginning with, the chain must be followed.
std::optional<std::uint32_t> FleetBooks::BlocksThrough(const Replica& replica,
                                                       BlockHash block) const {
  const auto of_a_tip = replica.runs.BlocksThrough(block);
  if (of_a_tip) return of_a_tip;
  const std::size_t blocks = index_.ChainTo(replica.lane, block, kChainFollowedMax).size();
  if (blocks == 0) return std::nullopt;
  return static_cast<std::uint32_t>(blocks);
}

void FleetBooks::StoreBlocks(Replica& replica, const KvEvent& event, std::size_t from,
                             std::size_t to, RunInHand& run, UseMoment now) {
  const auto size = static_cast<std::size_t>(run.block_tokens);
  // One that has too few tokens for its blocks was made by nobody we know.
  const std::size_t placed = run.placed ? std::clamp(event.tokens.size() / size, from, to) : from;
  std::array<AnnouncedBlock, BlockIndex::kBatch> batch;
  for (std::size_t i = from; i < placed;) {
    const std::size_t count = std::min(batch.size(), placed - i);
    for (std::size_t k = 0; k < count; ++k, ++i) {
      run.at = ExtendBy(event, i, size, run.at);
      batch[k] = {.key = event.blocks[i], .hash = run.at, .lower = event.tier != KvTier::kGpu};
    }
    const auto blocks = std::span(batch).first(count);
    index_.PrepareAnnounce(replica.lane, blocks);
    for (const AnnouncedBlock& block : blocks) index_.Announce(replica.lane, block, now);
    run.last = blocks.back().key;
    run.blocks += static_cast<std::uint32_t>(count);
  }
  replica.blocks_stored += static_cast<std::int64_t>(placed - from);
  if (placed < to) {
    run.placed = false;
    StoreWithoutTokens(replica, event, placed, to, now);
  }
}

void FleetBooks::StoreWithoutTokens(Replica& replica, const KvEvent& event, std::size_t from,
                                    std::size_t to, UseMoment now) {
  for (std::size_t i = from; i < to; ++i) {
    if (index_.AnnounceAgain(replica.lane, event.blocks[i], event.tier != KvTier::kGpu, now)) {
      ++replica.blocks_stored;
    } else {
      ++replica.blocks_unplaced;
    }
  }
}

void FleetBooks::RemoveBlocks(Replica& replica, const KvEvent& event, std::size_t from,
                              std::size_t to, UseMoment now) {
  for (std::size_t i = from; i < to; ++i) {
    const auto gone =
        index_.Withdraw(replica.lane, event.blocks[i], event.tier != KvTier::kGpu, now);
    if (!gone) continue;
    ++replica.blocks_removed;
    if (!gone->left_gpu) continue;
    const double age_s = UseAgeSeconds(gone->used, now);
    const double average_s = replica.evicted_age_s.value_or(age_s);
    replica.evicted_age_s = average_s + (age_s - average_s) * kEvictedWeight;
  }
}

void FleetBooks::EndRun(Replica& replica, RunInHand& run, std::int64_t now_ns) {
  if (run.kept && run.blocks == 1 && run.parent != 0) {
    replica.runs.Grow(run.parent, run.at);
  } else if (run.kept && run.blocks > 0) {
    replica.runs.Add({.blocks = run.begun_at + run.blocks, .last = run.at}, now_ns);
  }
  run = {};
}

}  // namespace sublet
