// FleetCache: requests that were sent somewhere, and what their prompts teach.
#include <algorithm>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "kvcache/fleet_books.h"

namespace sublet {
namespace {

// What is predicted of an exact replica stays at least as long as requests mostly run.
constexpr double kPredictedAgeMinS = 60;
// As in fleet_apply.cc.
constexpr std::size_t kBlocksATurn = 128;
// A replica has some hundred requests in flight, a router some hundred replicas. Who never confirms
// loses the oldest.
constexpr std::size_t kPredictionsMax = std::size_t{1} << 16;
// Answered in two seconds by one replica, in blocks of which each takes 8 bytes: not more.
constexpr std::size_t kSettlingMax = 4096;

// Beside the chain: the node of the map, or of the queue.
template <typename T>
std::size_t BytesOf(const T& prediction) {
  return sizeof(T) + 64 + prediction.chain.capacity() * sizeof(BlockHash);
}

}  // namespace

std::optional<ServedBy> FleetBooks::ServedAt(const Replica& replica,
                                             const RequestPrefix& prefix) const {
  std::vector<ServedBy> served;
  groups_.For(prefix.model, prefix.salt, served);
  for (const ServedBy& by : served) {
    if (by.group == replica.group) return by;
  }
  return std::nullopt;
}

std::vector<BlockHash> FleetBooks::ChainOf(const RequestPrefix& prefix, const ServedBy& by) const {
  if (prefix.token_ids.empty()) {
    const auto size = static_cast<std::ptrdiff_t>(std::min(prefix.text.size(), kChainBlocksMax));
    return {prefix.text.begin(), prefix.text.begin() + size};
  }
  const auto size = static_cast<std::size_t>(by.block_tokens);
  const std::span<const TokenId> tokens(prefix.token_ids);
  return TokenChain(by.seed, tokens.first(std::min(tokens.size(), kChainBlocksMax * size)),
                    by.block_tokens);
}

// ---- sent --------------------------------------------------------------------------------------

PredictionId FleetBooks::Predict(ReplicaSlot slot, const RequestPrefix& prefix,
                                 std::int64_t now_ns) {
  const UseMoment now = UseMomentOf(now_ns);
  SettleDue(slot, now_ns);
  Prediction prediction{.slot = slot,
                        .epoch = 0,
                        .sent_ns = now_ns,
                        .text = prefix.token_ids.empty(),
                        .text_bytes = prefix.text_bytes,
                        .chain = {}};
  std::optional<ServedBy> by;
  {
    const std::lock_guard lock(mutex_);
    const Replica* const replica = Find(slot);
    if (replica == nullptr) return next_prediction_++;
    prediction.epoch = replica->epoch;
    by = ServedAt(*replica, prefix);
  }
  if (by) prediction.chain = ChainOf(prefix, *by);
  if (!PlaceChain(prediction, now)) prediction.chain = {};
  if (prediction.text) TouchLearnt(prediction, now);
  const std::lock_guard lock(mutex_);
  Replica* const replica = InEpoch(slot, prediction.epoch);
  if (replica == nullptr) return next_prediction_++;
  Trim(*replica, now);
  return Keep(std::move(prediction), now);
}

// From its end, so that the beginning is the last to have been used, and the last to be forgotten.
bool FleetBooks::PlaceChain(const Prediction& prediction, UseMoment now) {
  std::size_t left = prediction.chain.size();
  while (left > 0) {
    const std::size_t turn = std::min(left, kBlocksATurn);
    const std::lock_guard lock(mutex_);
    const Replica* const replica = InEpoch(prediction.slot, prediction.epoch);
    if (replica == nullptr) return false;
    for (std::size_t i = 0; i < turn; ++i) {
      if (i % BlockIndex::kBatch == 0) {
        const std::size_t batch = std::min(BlockIndex::kBatch, turn - i);
        index_.PrepareUse(replica->lane, std::span(prediction.chain).subspan(left - batch, batch));
      }
      if (index_.Predict(replica->lane, prediction.chain[left - 1], prediction.text, now)) {
        --left;
        continue;
      }
      ReleasePiece(*replica, std::span(prediction.chain).subspan(left), ReleaseAs::kUnused, now);
      return false;
    }
  }
  return true;
}

PredictionId FleetBooks::Keep(Prediction prediction, UseMoment now) {
  const PredictionId id = next_prediction_++;
  const std::size_t bytes = BytesOf(prediction);
  while (predictions_.size() >= kPredictionsMax || !transient_.Take(bytes)) {
    if (predictions_.empty()) {  // It stays until it is forgotten.
      const Replica* const replica = InEpoch(prediction.slot, prediction.epoch);
      if (replica != nullptr) ReleasePiece(*replica, prediction.chain, ReleaseAs::kSettled, now);
      return id;
    }
    SettleOldest(now);
  }
  if (prediction.text) ++InEpoch(prediction.slot, prediction.epoch)->texts_in_flight;
  predictions_.emplace(id, std::move(prediction));
  return id;
}

void FleetBooks::SettleOldest(UseMoment now) {
  const Prediction oldest = *Take(predictions_.begin()->first);
  const Replica* const replica = InEpoch(oldest.slot, oldest.epoch);
  if (replica != nullptr) ReleasePiece(*replica, oldest.chain, ReleaseAs::kSettled, now);
  Forget(oldest);
}

// Still paid for, until Forget().
std::optional<FleetBooks::Prediction> FleetBooks::Take(PredictionId id) {
  auto node = predictions_.extract(id);
  if (node.empty()) return std::nullopt;
  return std::move(node.mapped());
}

void FleetBooks::Forget(const Prediction& prediction) {
  transient_.Give(BytesOf(prediction));
  Replica* const replica = InEpoch(prediction.slot, prediction.epoch);
  if (replica != nullptr && prediction.text) --replica->texts_in_flight;
}

// ---- answered ----------------------------------------------------------------------------------

void FleetBooks::Confirm(ReplicaSlot slot, PredictionId id,
                         std::optional<std::uint32_t> prompt_tokens, std::int64_t now_ns) {
  SettleDue(slot, now_ns);
  std::optional<Prediction> prediction;
  {
    const std::lock_guard lock(mutex_);
    prediction = Take(id);
    if (!prediction) return;
    Replica* const replica = InEpoch(prediction->slot, prediction->epoch);
    if (replica != nullptr && prediction->text && prompt_tokens && *prompt_tokens > 0) {
      groups_.RatioOf(replica->group).Learn(prediction->text_bytes, *prompt_tokens);
    }
    if (replica != nullptr && Await(*replica, *prediction, prompt_tokens, now_ns)) return;
    Forget(*prediction);
    if (replica == nullptr) return;
  }
  ReleaseChain(*prediction, ReleaseAs::kSettled, now_ns);
}

bool FleetBooks::Await(Replica& replica, Prediction& prediction,
                       std::optional<std::uint32_t> prompt_tokens, std::int64_t now_ns) {
  if (replica.knowledge != CacheKnowledge::kExact || replica.settling.size() >= kSettlingMax) {
    return false;
  }
  std::uint32_t to_learn = 0;
  if (prediction.text) {
    const Lesson lesson = Learn(replica, prediction, prompt_tokens.value_or(0));
    if (lesson == Lesson::kUnclear) return false;
    if (lesson == Lesson::kNotYet) to_learn = *prompt_tokens;
  }
  // The same order as Confirm()s come in, but for a clock that went back.
  const std::int64_t due_ns =
      std::max(now_ns + FleetCache::kSettleNs,
               replica.settling.empty() ? 0 : replica.settling.back().due_ns);
  replica.settling.push_back(
      {.prediction = std::move(prediction), .prompt_tokens = to_learn, .due_ns = due_ns});
  return true;
}

void FleetBooks::SettleDue(ReplicaSlot slot, std::int64_t now_ns) {
  for (;;) {
    Settling due;
    ReleaseAs as = ReleaseAs::kLapsed;
    {
      const std::lock_guard lock(mutex_);
      Replica* const replica = Find(slot);
      if (replica == nullptr || replica->settling.empty()) return;
      if (replica->settling.front().due_ns > now_ns) return;
      due = std::move(replica->settling.front());
      replica->settling.pop_front();
      const bool exact = replica->knowledge == CacheKnowledge::kExact;
      const bool learnt =
          due.prompt_tokens == 0 ||
          (exact && Learn(*replica, due.prediction, due.prompt_tokens) == Lesson::kLearnt);
      if (!exact || !learnt) as = ReleaseAs::kSettled;
      Forget(due.prediction);
    }
    if (due.prediction.text) TouchLearnt(due.prediction, UseMomentOf(now_ns));
    ReleaseChain(due.prediction, as, now_ns);
  }
}

void FleetBooks::Retract(ReplicaSlot /*slot*/, PredictionId id) {
  std::optional<Prediction> prediction;
  {
    const std::lock_guard lock(mutex_);
    prediction = Take(id);
    if (!prediction) return;
    Forget(*prediction);
  }
  ReleaseChain(*prediction, ReleaseAs::kUnused, prediction->sent_ns);
}

void FleetBooks::ReleaseChain(const Prediction& prediction, ReleaseAs as, std::int64_t now_ns) {
  const UseMoment now = UseMomentOf(now_ns);
  std::size_t left = prediction.chain.size();
  while (left > 0) {
    const std::size_t turn = std::min(left, kBlocksATurn);
    const std::lock_guard lock(mutex_);
    Replica* const replica = InEpoch(prediction.slot, prediction.epoch);
    if (replica == nullptr) return;
    ReleasePiece(*replica, std::span(prediction.chain).subspan(left - turn, turn), as, now);
    left -= turn;
    if (left == 0 && as == ReleaseAs::kSettled) Trim(*replica, now);
  }
}

void FleetBooks::ReleasePiece(const Replica& replica, std::span<const BlockHash> piece,
                              ReleaseAs as, UseMoment now) {
  for (std::size_t i = piece.size(); i > 0; --i) {
    if ((piece.size() - i) % BlockIndex::kBatch == 0) {
      const std::size_t batch = std::min(BlockIndex::kBatch, i);
      index_.PrepareUse(replica.lane, piece.subspan(i - batch, batch));
    }
    index_.Release(replica.lane, piece[i - 1], as, now);
  }
}

// What is predicted is forgotten as the replica's own cache would forget it.
void FleetBooks::Trim(Replica& replica, UseMoment now) {
  const LaneHoldings& announced = index_.Announced(replica.lane);
  const LaneHoldings& predicted = index_.Predicted(replica.lane);
  const bool approx = replica.knowledge == CacheKnowledge::kApprox;
  const std::int64_t block_tokens = replica.options.block_tokens;
  const auto exceeds = [&] {
    const CachePressure pressure = PressureIn(replica, now);
    const std::int64_t of_events = approx ? 0 : announced.count * block_tokens;
    return pressure.tokens_held - of_events > pressure.tokens_capacity;
  };
  for (std::size_t forgotten = 0; exceeds(); ++forgotten) {
    const bool of_events = approx && announced.count > 0 &&
                           (predicted.count == 0 || UseAgeSeconds(announced.oldest_used, now) >
                                                        UseAgeSeconds(predicted.oldest_used, now));
    if (forgotten % BlockIndex::kBatch == 0) index_.PrepareForget(replica.lane, of_events);
    CHECK(index_.ForgetOldest(replica.lane, of_events));
    replica.overflowed = true;
  }
  if (replica.knowledge != CacheKnowledge::kExact || !replica.evicted_age_s) return;
  // Its engine evicts what was used later than this: twice the average, since ages spread.
  while (predicted.count > 0 && UseAgeSeconds(predicted.oldest_used, now) >
                                    2 * *replica.evicted_age_s + kPredictedAgeMinS) {
    index_.ForgetOldest(replica.lane, /*announced=*/false);
  }
}

// ---- learnt ------------------------------------------------------------------------------------

FleetBooks::Lesson FleetBooks::Learn(Replica& replica, const Prediction& prediction,
                                     std::uint32_t prompt_tokens) {
  const auto block_tokens = static_cast<std::uint32_t>(replica.options.block_tokens);
  const std::uint32_t blocks = prompt_tokens / block_tokens;
  if (prediction.chain.empty() || blocks == 0) return Lesson::kUnclear;
  const BlockHash scope = groups_.PlainSeedOf(replica.group);
  // Its last block of text names all of it.
  if (texts_.Find(TextKey(prediction.chain.back(), scope))) return Lesson::kLearnt;
  const StoredRuns::Found found = replica.runs.Find(blocks, prediction.sent_ns);
  if (found.count == 0) return Lesson::kNotYet;
  if (found.count > 1) return Lesson::kUnclear;
  const std::vector<BlockHash> chain =
      index_.ChainTo(replica.lane, found.run->last, kChainFollowedMax);
  if (chain.size() != blocks) return Lesson::kUnclear;  // Part of it has gone again.
  LearnText(texts_, {.text = prediction.chain,
                     .text_bytes = prediction.text_bytes,
                     .chain = chain,
                     .prompt_tokens = prompt_tokens,
                     .block_tokens = block_tokens,
                     .scope = scope});
  found.run->claimed = true;
  ++texts_learnt_;
  return Lesson::kLearnt;
}

void FleetBooks::LearnTokens(const RequestPrefix& prefix, std::span<const TokenId> tokens) {
  if (prefix.text.empty() || tokens.empty()) return;
  std::vector<ServedBy> served;
  {
    const std::lock_guard lock(mutex_);
    groups_.For(prefix.model, prefix.salt, served);
  }
  RequestPrefix as_tokens;
  as_tokens.token_ids.assign(tokens.begin(), tokens.end());
  for (const ServedBy& by : served) {
    const std::vector<BlockHash> chain = ChainOf(as_tokens, by);
    const std::lock_guard lock(mutex_);
    std::vector<ServedBy> now_served;
    groups_.For(prefix.model, prefix.salt, now_served);
    if (std::find(now_served.begin(), now_served.end(), by) == now_served.end()) continue;
    groups_.RatioOf(by.group).Learn(prefix.text_bytes, static_cast<std::uint32_t>(tokens.size()));
    LearnText(texts_,
              {.text = std::span(prefix.text).first(std::min(prefix.text.size(), kChainBlocksMax)),
               .text_bytes = prefix.text_bytes,
               .chain = chain,
               .prompt_tokens = static_cast<std::uint32_t>(tokens.size()),
               .block_tokens = static_cast<std::uint32_t>(by.block_tokens),
               .scope = groups_.PlainSeedOf(by.group)});
    ++texts_learnt_;
  }
}

void FleetBooks::TouchLearnt(const Prediction& prediction, UseMoment now) {
  BlockHash at = 0;
  do {
    const std::lock_guard lock(mutex_);
    const Replica* const replica = InEpoch(prediction.slot, prediction.epoch);
    if (replica == nullptr || index_.Announced(replica->lane).count == 0) return;
    if (at == 0) at = DeepestLearnt(*replica, prediction.chain);
    if (at != 0) at = index_.TouchUp(replica->lane, at, kBlocksATurn, now);
  } while (at != 0);
}

// Of the tokens that are known to be the text's, the last block that the replica announced; 0:
// none.
BlockHash FleetBooks::DeepestLearnt(const Replica& replica, std::span<const BlockHash> text) {
  const BlockHash scope = groups_.PlainSeedOf(replica.group);
  BlockHash deepest = 0;
  for (std::size_t i = text.size(); i > 0; --i) {
    const std::uint64_t key = TextKey(text[i - 1], scope);
    const auto place = texts_.Find(key);
    if (!place) continue;
    texts_.Touch(key);
    if (deepest == 0 && index_.Announces(replica.lane, place->hash)) deepest = place->hash;
  }
  return deepest;
}

}  // namespace sublet
