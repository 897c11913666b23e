// FleetCache against the plainest thing that says the same: sets of whole prefixes.
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "kvcache/tests/small_fleet.h"

namespace sublet::testing {
namespace {

constexpr std::size_t kBlockTokens = 4;
constexpr ReplicaSlot kSlots = 3;
constexpr std::size_t kBlocksMax = 6;

// A prefix is its blocks' contents, each one number.
using Prefix = std::vector<TokenId>;

Tokens TokensOf(const Prefix& prefix) {
  Tokens tokens;
  for (const TokenId block : prefix) {
    for (std::size_t i = 0; i < kBlockTokens; ++i) {
      tokens.push_back(block * 10 + static_cast<TokenId>(i));
    }
  }
  return tokens;
}

Prefix First(const Prefix& prefix, std::size_t blocks) {
  return {prefix.begin(), prefix.begin() + static_cast<std::ptrdiff_t>(blocks)};
}

// What one replica holds.
struct PlainReplica {
  struct Copies {
    int gpu = 0;
    int lower = 0;
  };
  struct Expected {
    int in_flight = 0;
    bool settled = false;
  };
  std::map<std::pair<Prefix, int>, Copies> announced;  // By prefix and the engine's variant.
  std::map<Prefix, Expected> expected;
  CacheKnowledge knowledge = CacheKnowledge::kExact;
  std::int64_t life = 0;

  // 0: not held, 1: on the GPU, 2: lower, 3: predicted.
  int Holds(const Prefix& prefix) const {
    int best = expected.contains(prefix) ? 3 : 0;
    for (int variant = 0; variant < 2; ++variant) {
      const auto found = announced.find({prefix, variant});
      if (found == announced.end()) continue;
      if (found->second.gpu > 0) return 1;
      best = 2;
    }
    return best;
  }
  bool IsAnnounced(const Prefix& prefix) const {
    return announced.contains({prefix, 0}) || announced.contains({prefix, 1});
  }
  void Release(const Prefix& prefix, bool settle) {
    const auto found = expected.find(prefix);
    if (found == expected.end()) return;
    if (found->second.in_flight > 0) --found->second.in_flight;
    if (settle && !IsAnnounced(prefix)) found->second.settled = true;
    if (found->second.in_flight == 0 && !found->second.settled) expected.erase(found);
  }
  void Announce(const Prefix& prefix, int variant, bool lower) {
    Copies& copies = announced[{prefix, variant}];
    ++(lower ? copies.lower : copies.gpu);
    const auto found = expected.find(prefix);
    if (found == expected.end()) return;
    found->second.settled = false;
    if (found->second.in_flight == 0) expected.erase(found);
  }
  void Withdraw(const Prefix& prefix, int variant, bool lower) {
    const auto found = announced.find({prefix, variant});
    if (found == announced.end()) return;
    int& copies = lower ? found->second.lower : found->second.gpu;
    if (copies == 0) return;
    --copies;
    if (found->second.gpu + found->second.lower == 0) announced.erase(found);
  }
};

struct PlainPrediction {
  ReplicaSlot slot = 0;
  std::int64_t life = 0;
  Prefix prefix;
  std::optional<std::int64_t> due_ns;  // Confirmed, and lapses then.
};

class Fleet {
 public:
  Fleet() {
    for (ReplicaSlot slot = 0; slot < kSlots; ++slot) Add(slot);
  }

  void Step() {
    const auto slot = *rc::gen::inRange<ReplicaSlot>(0, kSlots);
    switch (*rc::gen::weightedElement<int>(
        {{8, 0}, {6, 1}, {3, 2}, {5, 3}, {3, 4}, {3, 5}, {1, 6}, {1, 7}, {1, 8}, {2, 9}})) {
      case 0:
        return Store(slot);
      case 1:
        return Remove(slot);
      case 2:
        return Offload(slot);
      case 3:
        return Predict(slot);
      case 4:
        return Confirm();
      case 5:
        return Retract();
      case 6:
        return Clear(slot);
      case 7:
        caches_.Drop(slot);
        return Add(slot);
      case 8:
        return Learn(slot);
      default:
        now_ns_ += kSecondNs;
        return;
    }
  }

  void Check() {
    for (ReplicaSlot slot = 0; slot < kSlots; ++slot) caches_.StatusOf(slot, now_ns_);
    Lapse();
    caches_.Audit();
    const Prefix prefix = AnyPrefix();
    std::vector<CacheMatch> matches;
    const MatchSummary summary = caches_.Match(TokenPrompt(TokensOf(prefix)), matches);
    std::size_t next = 0;
    std::uint32_t everywhere = static_cast<std::uint32_t>(prefix.size() * kBlockTokens);
    for (ReplicaSlot slot = 0; slot < kSlots; ++slot) {
      const CacheMatch plain = Plain(slot, prefix);
      const std::uint32_t held = plain.tokens + plain.tokens_offloaded;
      everywhere = std::min(everywhere, held);
      if (held == 0) continue;
      RC_ASSERT(next < matches.size());
      RC_ASSERT(matches[next].slot == slot);
      RC_ASSERT(matches[next].tokens == plain.tokens);
      RC_ASSERT(matches[next].tokens_offloaded == plain.tokens_offloaded);
      RC_ASSERT(matches[next].predicted == plain.predicted);
      ++next;
    }
    RC_ASSERT(next == matches.size());
    RC_ASSERT(summary.tokens_everywhere == everywhere);
  }

 private:
  static Prefix AnyPrefix() {
    return *rc::gen::resize(static_cast<int>(kBlocksMax),
                            rc::gen::container<Prefix>(rc::gen::inRange<TokenId>(1, 3)));
  }

  CacheMatch Plain(ReplicaSlot slot, const Prefix& prefix) const {
    CacheMatch match{.slot = slot};
    match.predicted = plain_[slot].knowledge != CacheKnowledge::kExact;
    for (std::size_t blocks = 1; blocks <= prefix.size(); ++blocks) {
      const int holds = plain_[slot].Holds(First(prefix, blocks));
      if (holds == 0) break;
      (holds == 2 ? match.tokens_offloaded : match.tokens) += kBlockTokens;
      if (holds == 3) match.predicted = true;
    }
    return match;
  }

  void Add(ReplicaSlot slot) {
    caches_.Add(slot, {.model = "m", .blocks = 1000, .block_tokens = 4, .events = true}, now_ns_);
    caches_.SetKnowledge(slot, CacheKnowledge::kExact, "", false, now_ns_);
    plain_[slot] = {};
    plain_[slot].life = ++lives_;
  }

  void Store(ReplicaSlot slot) {
    const Prefix prefix = AnyPrefix();
    if (prefix.empty()) return;
    const auto from = *rc::gen::inRange<std::size_t>(0, prefix.size());
    const auto to = *rc::gen::inRange<std::size_t>(from + 1, prefix.size() + 1);
    const int variant = *rc::gen::inRange(0, 2);
    const bool lower = *rc::gen::weightedElement<bool>({{4, false}, {1, true}});
    KvEvent event = Stored(TokensOf(prefix), from, to, 4, variant);
    event.tier = lower ? KvTier::kStorage : KvTier::kGpu;
    // In one batch, or parted over two that continue each other.
    caches_.Apply(slot, Batch({event}), now_ns_);
    PlainReplica& plain = plain_[slot];
    const bool placed = from == 0 || plain.announced.contains({First(prefix, from), variant});
    for (std::size_t blocks = from + 1; blocks <= to; ++blocks) {
      const Prefix block = First(prefix, blocks);
      if (placed || plain.announced.contains({block, variant})) {
        plain.Announce(block, variant, lower);
      }
    }
  }

  void Remove(ReplicaSlot slot) {
    const Prefix prefix = AnyPrefix();
    if (prefix.empty()) return;
    const int variant = *rc::gen::inRange(0, 2);
    const bool lower = *rc::gen::weightedElement<bool>({{4, false}, {1, true}});
    caches_.Apply(slot,
                  Batch({Removed({KeyOf(TokensOf(prefix), prefix.size(), 4, variant)},
                                 lower ? KvTier::kHost : KvTier::kGpu)}),
                  now_ns_);
    plain_[slot].Withdraw(prefix, variant, lower);
  }

  void Offload(ReplicaSlot slot) {
    const Prefix prefix = AnyPrefix();
    if (prefix.empty()) return;
    KvEvent event = Stored(TokensOf(prefix), prefix.size() - 1, prefix.size(), 4, 0);
    event.tokens.clear();
    event.tier = KvTier::kHost;
    caches_.Apply(slot, Batch({event}), now_ns_);
    if (plain_[slot].announced.contains({prefix, 0})) plain_[slot].Announce(prefix, 0, true);
  }

  void Predict(ReplicaSlot slot) {
    const Prefix prefix = AnyPrefix();
    const PredictionId id = caches_.Predict(slot, TokenPrompt(TokensOf(prefix)), now_ns_);
    for (std::size_t blocks = 1; blocks <= prefix.size(); ++blocks) {
      ++plain_[slot].expected[First(prefix, blocks)].in_flight;
    }
    predictions_[id] = {.slot = slot, .life = plain_[slot].life, .prefix = prefix, .due_ns = {}};
  }

  std::optional<PredictionId> AnyPrediction() const {
    std::vector<PredictionId> ids;
    for (const auto& [id, prediction] : predictions_) {
      if (!prediction.due_ns) ids.push_back(id);
    }
    if (ids.empty()) return std::nullopt;
    return *rc::gen::elementOf(ids);
  }

  void Confirm() {
    const auto id = AnyPrediction();
    if (!id) return;
    PlainPrediction& prediction = predictions_[*id];
    caches_.Confirm(prediction.slot, *id, 12, now_ns_);
    if (plain_[prediction.slot].knowledge == CacheKnowledge::kExact) {
      prediction.due_ns = now_ns_ + FleetCache::kSettleNs;
    } else {
      Release(prediction, true);
      predictions_.erase(*id);
    }
  }

  void Retract() {
    const auto id = AnyPrediction();
    if (!id) return;
    caches_.Retract(predictions_[*id].slot, *id);
    Release(predictions_[*id], false);
    predictions_.erase(*id);
  }

  void Release(const PlainPrediction& prediction, bool settle) {
    PlainReplica& plain = plain_[prediction.slot];
    if (plain.life != prediction.life) return;
    for (std::size_t blocks = prediction.prefix.size(); blocks > 0; --blocks) {
      plain.Release(First(prediction.prefix, blocks), settle);
    }
  }

  void Lapse() {
    for (auto at = predictions_.begin(); at != predictions_.end();) {
      if (!at->second.due_ns || *at->second.due_ns > now_ns_) {
        ++at;
        continue;
      }
      Release(at->second, plain_[at->second.slot].knowledge != CacheKnowledge::kExact);
      at = predictions_.erase(at);
    }
  }

  void Clear(ReplicaSlot slot) {
    caches_.Apply(slot, Batch({Cleared()}), now_ns_);
    const CacheKnowledge knowledge = plain_[slot].knowledge;
    plain_[slot] = {};
    plain_[slot].knowledge = knowledge;
    plain_[slot].life = ++lives_;
  }

  void Learn(ReplicaSlot slot) {
    const auto knowledge =
        *rc::gen::element(CacheKnowledge::kExact, CacheKnowledge::kStale, CacheKnowledge::kApprox);
    const bool restarted = *rc::gen::weightedElement<bool>({{3, false}, {1, true}});
    caches_.SetKnowledge(slot, knowledge, "", restarted, now_ns_);
    if (restarted) {
      plain_[slot] = {};
      plain_[slot].life = ++lives_;
    }
    plain_[slot].knowledge = knowledge;
  }

  FleetCache caches_;
  std::vector<PlainReplica> plain_{kSlots};
  std::map<PredictionId, PlainPrediction> predictions_;
  std::int64_t lives_ = 0;
  std::int64_t now_ns_ = 0;
};

RC_GTEST_PROP(FleetOracle, SaysWhatPlainSetsOfPrefixesSay, ()) {
  Fleet fleet;
  const int steps = *rc::gen::inRange(0, 60);
  for (int i = 0; i < steps; ++i) {
    fleet.Step();
    fleet.Check();
  }
}

// A list of blocks, the last used in front, cut off at the capacity.
RC_GTEST_PROP(FleetOracle, ForgetsAsAnLruOfThatCapacity, ()) {
  const auto capacity = *rc::gen::inRange<std::size_t>(1, 12);
  FleetCache caches;
  caches.Add(0, {.model = "m", .blocks = static_cast<std::int64_t>(capacity), .block_tokens = 4},
             0);
  std::vector<Prefix> used;
  const auto use = [&](const Prefix& prefix) {
    for (std::size_t blocks = prefix.size(); blocks > 0; --blocks) {
      const Prefix block = First(prefix, blocks);
      std::erase(used, block);
      used.insert(used.begin(), block);
    }
  };
  const int steps = *rc::gen::inRange(0, 40);
  for (int i = 0; i < steps; ++i) {
    const auto prefix =
        *rc::gen::resize(static_cast<int>(std::min(capacity, kBlocksMax)),
                         rc::gen::container<Prefix>(rc::gen::inRange<TokenId>(1, 4)));
    const PredictionId id = caches.Predict(0, TokenPrompt(TokensOf(prefix)), i * kSecondNs);
    use(prefix);
    if (used.size() > capacity) used.resize(capacity);
    caches.Confirm(0, id, {}, i * kSecondNs);
    caches.Audit();
    const auto query = *rc::gen::resize(
        static_cast<int>(kBlocksMax), rc::gen::container<Prefix>(rc::gen::inRange<TokenId>(1, 4)));
    std::size_t held = 0;
    while (held < query.size() &&
           std::find(used.begin(), used.end(), First(query, held + 1)) != used.end()) {
      ++held;
    }
    RC_ASSERT(MatchOf(caches, TokenPrompt(TokensOf(query)), 0).tokens == held * kBlockTokens);
  }
}

}  // namespace
}  // namespace sublet::testing
