#include "kvcache/block_index.h"

#include <algorithm>

#include "base/check.h"
#include "kvcache/block_nodes.h"

namespace sublet {

UseMoment UseMomentOf(std::int64_t now_ns) {
  return static_cast<UseMoment>(now_ns / kUseMomentNs) & ((1u << kUseMomentBits) - 1);
}

double UseAgeSeconds(UseMoment used, UseMoment now) {
  const UseMoment age = (now - used) & ((1u << kUseMomentBits) - 1);
  // What is a little ahead was told by a caller who read the clock a little later.
  if (age > (3u << (kUseMomentBits - 2))) return 0;
  return static_cast<double>(age) * static_cast<double>(kUseMomentNs) * 1e-9;
}

namespace {

constexpr std::uint32_t kInFlightMax = (1u << 10) - 1;
constexpr std::uint32_t kGpuMax = (1u << 9) - 1;
constexpr std::uint32_t kLowerMax = (1u << 5) - 1;

// Holdings, where a lane is wanted and all are retired.
constexpr int kSweptForALane = 64;
// Of holdings of retired lanes, with each block that comes or goes: more than come.
constexpr int kSweptAStep = 2;

}  // namespace

// Lists of one on average where every request looks, of two where only events do.
BlockIndex::BlockIndex(std::size_t bytes_max)
    : budget_(bytes_max),
      arena_(budget_),
      sets_(arena_),
      by_hash_(budget_, bytes_max / sizeof(BlockRecord), 1),
      by_key_(budget_, bytes_max / sizeof(BlockHolding), 2),
      by_record_(budget_, bytes_max / sizeof(BlockHolding), 2) {
  static_assert(sizeof(BlockRecord) == 20 && sizeof(BlockHolding) == 36);
}

BlockIndex::~BlockIndex() = default;

// ---- lanes -------------------------------------------------------------------------------------

LaneId BlockIndex::Open() {
  const auto free = [](const Lane& lane) { return !lane.open && !lane.retired; };
  auto found = std::find_if(lanes_.begin(), lanes_.end(), free);
  if (found == lanes_.end() && lanes_.size() == kLanesMax) {
    while (found == lanes_.end()) {
      CHECK(!retired_.empty());
      Sweep(kSweptForALane);
      found = std::find_if(lanes_.begin(), lanes_.end(), free);
    }
  }
  if (found == lanes_.end()) found = lanes_.emplace(lanes_.end());
  *found = {};
  found->open = true;
  CountLanes();
  return static_cast<LaneId>(found - lanes_.begin());
}

void BlockIndex::CountLanes() {
  lane_words_ = std::max<std::size_t>(1, (lanes_.size() + 63) / 64);
  sets_.SetLaneWords(lane_words_);
}

void BlockIndex::Retire(LaneId lane) {
  CHECK(lanes_[lane].open);
  lanes_[lane].open = false;
  lanes_[lane].retired = true;
  retired_.push_back(lane);
  if (victim_ == lane) victim_for_ = 0;
}

void BlockIndex::Sweep(int holdings) {
  while (!retired_.empty() && holdings > 0) {
    Lane& lane = lanes_[retired_.front()];
    SlabHandle next = lane.announced.oldest != 0 ? lane.announced.oldest : lane.predicted.oldest;
    if (next != 0) {
      Remove(next);
      --holdings;
      continue;
    }
    lane.retired = false;
    retired_.pop_front();
    while (!lanes_.empty() && !lanes_.back().open && !lanes_.back().retired) lanes_.pop_back();
    CountLanes();
  }
}

// ---- what engines announce ---------------------------------------------------------------------

void BlockIndex::BeginRun(LaneId lane, const PlacedBlock& parent) {
  lanes_[lane].run = 0;
  lanes_[lane].run_record = parent.record;
}

void BlockIndex::PrepareAnnounce(LaneId lane, std::span<const AnnouncedBlock> blocks) const {
  for (const AnnouncedBlock& block : blocks) {
    __builtin_prefetch(by_key_.Head(Mixed(block.key, lane)));
    __builtin_prefetch(by_hash_.Head(block.hash));
    __builtin_prefetch(by_record_.Head(OwnHash(block.hash, lane)), /*for writing*/ 1);
  }
  for (const AnnouncedBlock& block : blocks) {
    __builtin_prefetch(HoldingAt(by_key_.First(Mixed(block.key, lane))));
    __builtin_prefetch(RecordAt(by_hash_.First(block.hash)));
  }
}

void BlockIndex::PrepareWithdraw(LaneId lane, std::span<const std::uint64_t> keys) const {
  for (const std::uint64_t key : keys) __builtin_prefetch(by_key_.Head(Mixed(key, lane)));
  for (const std::uint64_t key : keys) {
    __builtin_prefetch(HoldingAt(by_key_.First(Mixed(key, lane))));
  }
  SlabHandle found[kBatch];
  for (std::size_t i = 0; i < keys.size(); ++i) {
    found[i] = FindKey(lane, keys[i]);
    const BlockHolding* const holding = HoldingAt(found[i]);
    if (found[i] == 0) continue;
    __builtin_prefetch(RecordAt(holding->record));
    __builtin_prefetch(HoldingAt(holding->newer), /*for writing*/ 1);
    __builtin_prefetch(HoldingAt(holding->older), /*for writing*/ 1);
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (found[i] == 0) continue;
    const BlockHash hash = RecordAt(HoldingAt(found[i])->record)->hash();
    __builtin_prefetch(by_record_.Head(OwnHash(hash, lane)), 1);
    __builtin_prefetch(by_hash_.Head(hash), 1);
  }
}

void BlockIndex::PrepareUse(LaneId lane, std::span<const BlockHash> hashes) const {
  for (const BlockHash hash : hashes) {
    __builtin_prefetch(by_hash_.Head(hash));
    __builtin_prefetch(by_record_.Head(OwnHash(hash, lane)));
  }
  for (const BlockHash hash : hashes) {
    __builtin_prefetch(RecordAt(by_hash_.First(hash)));
    __builtin_prefetch(HoldingAt(by_record_.First(OwnHash(hash, lane))));
  }
  for (const BlockHash hash : hashes) {
    const BlockHolding* const holding = HoldingAt(by_record_.First(OwnHash(hash, lane)));
    __builtin_prefetch(HoldingAt(holding->newer), /*for writing*/ 1);
    __builtin_prefetch(HoldingAt(holding->older), /*for writing*/ 1);
  }
}

bool BlockIndex::Announce(LaneId lane, const AnnouncedBlock& block, UseMoment now) {
  now_ = now;
  Sweep(kSweptAStep);
  SlabHandle handle = FindKey(lane, block.key);
  if (handle != 0) {
    if (RecordAt(HoldingAt(handle)->record)->hash() == block.hash) {
      CHECK(AnnounceAgain(lane, block.key, block.lower, now));
      lanes_[lane].run_record = HoldingAt(handle)->record;
      return true;
    }
    Remove(handle);  // The engine uses the name for another block: we missed that it went.
  }
  const SlabHandle record = FindRecord(block.hash);
  handle = record == 0 ? 0 : FindOwn(lane, record, /*keyed=*/false);
  if (handle != 0) {
    Unlink(handle);
  } else {
    handle = PlaceMakingRoom(lane, block.hash, /*text=*/false,
                             block.lower ? Holds::kLower : Holds::kGpu);
    if (handle == 0) return false;
  }
  BlockHolding* const holding = HoldingAt(handle);
  holding->key_low = static_cast<std::uint32_t>(block.key);
  holding->key_high = static_cast<std::uint32_t>(block.key >> 32);
  holding->gpu = block.lower ? 0 : 1;
  holding->lower = block.lower ? 1 : 0;
  holding->settled = 0;
  by_key_.Insert(handle, Mixed(block.key, lane), LinksByKey{arena_});
  Link(handle, lanes_[lane].run, now);
  RecordAt(holding->record)->parent = lanes_[lane].run_record;
  lanes_[lane].run = handle;
  lanes_[lane].run_record = holding->record;
  Reckon(lane, holding->record);
  return true;
}

bool BlockIndex::AnnounceAgain(LaneId lane, std::uint64_t key, bool lower, UseMoment now) {
  now_ = now;
  const SlabHandle handle = FindKey(lane, key);
  if (handle == 0) return false;
  BlockHolding* const holding = HoldingAt(handle);
  if (lower) {
    holding->lower = std::min(holding->lower + 1u, kLowerMax);
  } else {
    holding->gpu = std::min(holding->gpu + 1u, kGpuMax);
  }
  if (!lower && lanes_[lane].run != handle) {
    const SlabHandle run = lanes_[lane].run;
    Unlink(handle);
    Link(handle, run, now);
    lanes_[lane].run = handle;
  }
  Reckon(lane, holding->record);
  return true;
}

std::optional<PlacedBlock> BlockIndex::Find(LaneId lane, std::uint64_t key) const {
  const SlabHandle handle = FindKey(lane, key);
  if (handle == 0) return std::nullopt;
  const SlabHandle record = HoldingAt(handle)->record;
  return PlacedBlock{.hash = RecordAt(record)->hash(), .record = record};
}

bool BlockIndex::Announces(LaneId lane, BlockHash hash) const {
  const SlabHandle record = FindRecord(hash);
  return record != 0 && FindOwn(lane, record, /*keyed=*/true) != 0;
}

std::optional<WithdrawnBlock> BlockIndex::Withdraw(LaneId lane, std::uint64_t key, bool lower,
                                                   UseMoment now) {
  now_ = now;
  Sweep(kSweptAStep);
  const SlabHandle handle = FindKey(lane, key);
  if (handle == 0) return std::nullopt;
  BlockHolding* const holding = HoldingAt(handle);
  const std::uint32_t in_tier = lower ? holding->lower : holding->gpu;
  if (in_tier == 0) return std::nullopt;
  const WithdrawnBlock withdrawn{.left_gpu = !lower && in_tier == 1, .used = holding->used};
  if (holding->gpu + holding->lower > 1) {
    if (lower) {
      --holding->lower;
    } else {
      --holding->gpu;
    }
    Reckon(lane, holding->record);
  } else if (holding->in_flight > 0) {
    Unkey(handle);  // A request that is on its way there will bring the block back.
    Reckon(lane, holding->record);
  } else {
    Remove(handle);
  }
  return withdrawn;
}

void BlockIndex::Unkey(SlabHandle handle) {
  BlockHolding* const holding = HoldingAt(handle);
  by_key_.Remove(handle, Mixed(holding->key(), holding->lane), LinksByKey{arena_});
  Unlink(handle);
  holding->gpu = 0;
  holding->lower = 0;
  Link(handle, 0, now_);
}

// ---- what is predicted -------------------------------------------------------------------------

bool BlockIndex::Predict(LaneId lane, BlockHash hash, bool text, UseMoment now) {
  now_ = now;
  Sweep(kSweptAStep);
  const OwnHoldings own = FindOwn(lane, FindRecord(hash));
  SlabHandle handle = own.keyed != 0 ? own.keyed : own.predicted;
  if (handle == 0) {
    handle = PlaceMakingRoom(lane, hash, text, Holds::kPredicted);
    if (handle == 0) return false;
    Link(handle, 0, now);
  } else {
    Renew(handle, now);
  }
  BlockHolding* const holding = HoldingAt(handle);
  if (holding->in_flight == kInFlightMax) {
    holding->settled = 1;  // So many that it may as well stay until it is forgotten.
  } else {
    ++holding->in_flight;
  }
  return true;
}

void BlockIndex::Release(LaneId lane, BlockHash hash, ReleaseAs as, UseMoment now) {
  now_ = now;
  const OwnHoldings own = FindOwn(lane, FindRecord(hash));
  SlabHandle handle = own.keyed;
  // What is announced is held as long as its engine says, and needs no settling.
  if (as == ReleaseAs::kSettled && handle != 0) as = ReleaseAs::kLapsed;
  if (own.predicted != 0 && (handle == 0 || HoldingAt(handle)->in_flight == 0)) {
    handle = own.predicted;
  }
  if (handle == 0) return;
  BlockHolding* const holding = HoldingAt(handle);
  if (holding->in_flight > 0) --holding->in_flight;
  if (as == ReleaseAs::kSettled) holding->settled = 1;
  if (!holding->announced() && holding->in_flight == 0 && holding->settled == 0) {
    Remove(handle);
  } else if (as != ReleaseAs::kUnused) {
    Renew(handle, now);
  }
}

BlockHash BlockIndex::TouchUp(LaneId lane, BlockHash hash, std::size_t steps, UseMoment now) {
  now_ = now;
  SlabHandle record = FindRecord(hash);
  for (; record != 0 && steps > 0; --steps) {
    const SlabHandle handle = FindOwn(lane, record, /*keyed=*/true);
    if (handle == 0) return 0;
    Renew(handle, now);
    record = RecordAt(record)->parent;
  }
  return record == 0 ? 0 : RecordAt(record)->hash();
}

std::vector<BlockHash> BlockIndex::ChainTo(LaneId lane, BlockHash hash,
                                           std::size_t blocks_max) const {
  std::vector<BlockHash> chain;
  for (SlabHandle at = FindRecord(hash); at != 0; at = RecordAt(at)->parent) {
    if (chain.size() == blocks_max || FindOwn(lane, at, /*keyed=*/true) == 0) return {};
    chain.push_back(RecordAt(at)->hash());
  }
  std::reverse(chain.begin(), chain.end());
  return chain;
}

bool BlockIndex::ForgetOldest(LaneId lane, bool announced) {
  const SlabHandle handle =
      announced ? lanes_[lane].announced.oldest : lanes_[lane].predicted.oldest;
  if (handle == 0) return false;
  Remove(handle);
  return true;
}

void BlockIndex::PrepareForget(LaneId lane, bool announced) const {
  SlabHandle at = announced ? lanes_[lane].announced.oldest : lanes_[lane].predicted.oldest;
  SlabHandle oldest[kBatch];
  std::size_t count = 0;
  for (; at != 0 && count < kBatch; at = HoldingAt(at)->newer) {
    oldest[count++] = at;
    __builtin_prefetch(RecordAt(HoldingAt(at)->record));
  }
  BlockHash hashes[kBatch];
  for (std::size_t i = 0; i < count; ++i) {
    hashes[i] = RecordAt(HoldingAt(oldest[i])->record)->hash();
    __builtin_prefetch(by_hash_.Head(hashes[i]), /*for writing*/ 1);
    __builtin_prefetch(by_record_.Head(OwnHash(hashes[i], lane)), 1);
  }
  for (std::size_t i = 0; i < count; ++i) {
    __builtin_prefetch(RecordAt(by_hash_.First(hashes[i])));
    __builtin_prefetch(HoldingAt(by_record_.First(OwnHash(hashes[i], lane))));
  }
}

// ---- finding -----------------------------------------------------------------------------------

SlabHandle BlockIndex::FindRecord(BlockHash hash) const {
  SlabHandle at = by_hash_.First(hash);
  while (at != 0 && RecordAt(at)->hash() != hash) at = RecordAt(at)->next;
  return at;
}

SlabHandle BlockIndex::FindKey(LaneId lane, std::uint64_t key) const {
  SlabHandle at = by_key_.First(Mixed(key, lane));
  while (at != 0 && (HoldingAt(at)->key() != key || HoldingAt(at)->lane != lane)) {
    at = HoldingAt(at)->key_next;
  }
  return at;
}

SlabHandle BlockIndex::FindOwn(LaneId lane, SlabHandle record, bool keyed) const {
  for (SlabHandle at = by_record_.First(OwnHash(RecordAt(record)->hash(), lane)); at != 0;
       at = HoldingAt(at)->own_next) {
    const BlockHolding* const holding = HoldingAt(at);
    if (holding->record == record && holding->lane == lane && holding->announced() == keyed) {
      return at;
    }
  }
  return 0;
}

BlockIndex::OwnHoldings BlockIndex::FindOwn(LaneId lane, SlabHandle record) const {
  OwnHoldings own;
  if (record == 0) return own;
  for (SlabHandle at = by_record_.First(OwnHash(RecordAt(record)->hash(), lane)); at != 0;
       at = HoldingAt(at)->own_next) {
    const BlockHolding* const holding = HoldingAt(at);
    if (holding->record != record || holding->lane != lane) continue;
    SlabHandle& found = holding->announced() ? own.keyed : own.predicted;
    if (found == 0) found = at;
  }
  return own;
}

// In three passes, so that the memory's answers overlap: a block costs two misses when it is alone,
// and a sixteenth of that here.
void BlockIndex::HoldersOf(const BlockHash* hashes, std::size_t stride, std::size_t count,
                           std::uint32_t* holders) const {
  SlabHandle first[kBatch];
  for (std::size_t i = 0; i < count; ++i) __builtin_prefetch(by_hash_.Head(hashes[i * stride]));
  for (std::size_t i = 0; i < count; ++i) {
    first[i] = by_hash_.First(hashes[i * stride]);
    __builtin_prefetch(RecordAt(first[i]));
  }
  for (std::size_t i = 0; i < count; ++i) {
    SlabHandle at = first[i];
    while (at != 0 && RecordAt(at)->hash() != hashes[i * stride]) at = RecordAt(at)->next;
    holders[i] = at == 0 ? 0 : RecordAt(at)->holders;
    sets_.Prefetch(holders[i]);
  }
}

}  // namespace sublet
