// What must hold for any requests, in any order, on any engine.

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <list>
#include <map>
#include <memory>
#include <optional>

#include "engine/block_pool.h"
#include "engine/engine.h"
#include "engine/tests/virtual_run.h"

namespace sublet {
namespace {

constexpr std::int64_t kMs = 1'000'000;
constexpr int kBlockTokens = 4;

// Something done to an engine some time after the thing before.
struct Deed {
  enum class What { kSubmit, kCancel, kReset };
  What what = What::kSubmit;
  int after_ms = 0;
  int conversation = 0;
  int tokens = 1;  // Of the prompt: the conversation's first ones, and one of its own.
  int output = 1;
  int target = 0;  // Of the request that is cancelled, counted from the first.
  bool by_content = false;
  int engine = 0;
};

rc::Gen<Deed> AnyDeed() {
  using rc::gen::inRange;
  return rc::gen::build<Deed>(
      rc::gen::set(&Deed::what, rc::gen::weightedElement<Deed::What>({{12, Deed::What::kSubmit},
                                                                      {2, Deed::What::kCancel},
                                                                      {1, Deed::What::kReset}})),
      rc::gen::set(&Deed::after_ms, inRange(0, 60)),
      rc::gen::set(&Deed::conversation, inRange(0, 3)), rc::gen::set(&Deed::tokens, inRange(1, 30)),
      rc::gen::set(&Deed::output, inRange(1, 12)), rc::gen::set(&Deed::target, inRange(0, 20)),
      rc::gen::set(&Deed::by_content, rc::gen::arbitrary<bool>()),
      rc::gen::set(&Deed::engine, inRange(0, 2)));
}

EngineRequest RequestOf(const Deed& deed, int number) {
  EngineRequest request{.output_tokens = deed.output};
  if (deed.by_content) {
    request.prompt_tokens = deed.tokens;
    for (int i = 0; i < (deed.tokens + kBlockTokens - 1) / kBlockTokens; ++i) {
      request.contents.push_back(static_cast<std::uint64_t>(deed.conversation * 1000 + i));
    }
    return request;
  }
  for (int i = 1; i < deed.tokens; ++i) {
    request.prompt.push_back(static_cast<TokenId>(deed.conversation * 1000 + i));
  }
  request.prompt.push_back(static_cast<TokenId>(100'000 + number % 2));
  return request;
}

struct Figures {
  std::int64_t blocks = 8;
  int step_tokens = 16;
  int sequences = 4;
};

EngineOptions OptionsOf(const Figures& figures) {
  return {.kv_blocks = figures.blocks,
          .block_tokens = kBlockTokens,
          .prefill_tokens_per_second = 1000,
          .step_overhead_ms = 3,
          .decode_ms_a_sequence = 1,
          .step_tokens = figures.step_tokens,
          .sequences_max = figures.sequences};
}

Figures AnyFigures() {
  return {.blocks = *rc::gen::inRange<std::int64_t>(3, 30),
          .step_tokens = *rc::gen::inRange(1, 40),
          .sequences = *rc::gen::inRange(1, 6)};
}

// Two engines of one GPU, on which the deeds are done; all that came out, as text, and the checks
// that hold at any time.
struct Outcome {
  std::vector<std::int64_t> ends;
  std::vector<std::vector<EngineHash>> caches;
  std::int64_t submitted = 0;
  std::int64_t refused = 0;
};

Outcome Do(const std::vector<Deed>& deeds, const Figures& figures) {
  auto gpu = std::make_shared<SharedGpu>();
  Engine one(OptionsOf(figures), gpu);
  Engine other(OptionsOf(figures), gpu);
  const std::vector<Engine*> engines = {&one, &other};
  VirtualRun run(engines);
  Outcome outcome;
  std::int64_t now_ns = 0;
  int number = 0;
  std::map<Engine*, std::vector<EngineRequestId>> ids;
  for (const Deed& deed : deeds) {
    now_ns += deed.after_ms * kMs;
    run.AdvanceTo(now_ns);
    Engine& engine = *engines[static_cast<std::size_t>(deed.engine)];
    if (deed.what == Deed::What::kSubmit) {
      const auto id = engine.Submit(RequestOf(deed, number++), now_ns);
      if (id) ids[&engine].push_back(*id);
      ++(id ? outcome.submitted : outcome.refused);
    } else if (deed.what == Deed::What::kCancel && !ids[&engine].empty()) {
      engine.Cancel(ids[&engine][static_cast<std::size_t>(deed.target) % ids[&engine].size()]);
    } else if (deed.what == Deed::What::kReset) {
      const bool idle = engine.blocks_used() == 0;
      RC_ASSERT(engine.ResetPrefixCache().has_value() == idle);
    }
    RC_ASSERT(engine.running() <= figures.sequences);
    RC_ASSERT(engine.blocks_used() <= figures.blocks);
    RC_ASSERT(engine.blocks_cached() <= figures.blocks);
  }
  run.Finish();
  for (Engine* const engine : engines) {
    std::vector<KvEvent> events = run.EventsOf(engine);
    for (const KvEvent& event : engine->TakeEvents()) events.push_back(event);
    // Replaying all events gives exactly the content of the cache.
    RC_ASSERT(Replayed(events) == engine->CachedHashes());
    RC_ASSERT(engine->blocks_used() == 0);
    RC_ASSERT(engine->running() + engine->waiting() == 0);
    for (const KvEvent& event : events) {
      if (event.what != KvEvent::What::kStored) continue;
      RC_ASSERT(event.tokens.size() == event.blocks.size() * kBlockTokens);
    }
    for (const EngineRequestId id : ids[engine]) {
      outcome.ends.push_back(run.LastTokenOf(engine, id).value_or(-1));
    }
    outcome.caches.push_back(engine->CachedHashes());
  }
  const auto done = one.counters().finished + other.counters().finished;
  const auto cancelled = one.counters().cancelled + other.counters().cancelled;
  RC_ASSERT(done + cancelled == outcome.submitted);
  return outcome;
}

RC_GTEST_PROP(EngineProperty, KeepsItsBooksAndItsEventsTrue, ()) {
  const auto figures = AnyFigures();
  const auto deeds = *rc::gen::container<std::vector<Deed>>(AnyDeed());
  Do(deeds, figures);
}

RC_GTEST_PROP(EngineProperty, AnswersTheSameToTheSame, ()) {
  const auto figures = AnyFigures();
  const auto deeds = *rc::gen::container<std::vector<Deed>>(AnyDeed());
  const Outcome once = Do(deeds, figures);
  const Outcome again = Do(deeds, figures);
  RC_ASSERT(once.ends == again.ends);
  RC_ASSERT(once.caches == again.caches);
}

// Who looks late sees the same: steps lie where they would, and take what had arrived by then.
RC_GTEST_PROP(EngineProperty, LosesNothingByBeingAdvancedLate, ()) {
  const auto figures = AnyFigures();
  const auto deeds = *rc::gen::container<std::vector<Deed>>(AnyDeed());
  Engine prompt(OptionsOf(figures));
  Engine late(OptionsOf(figures));
  VirtualRun run({&prompt});
  std::int64_t now_ns = 0;
  int number = 0;
  std::vector<EngineRequestId> ids;
  for (const Deed& deed : deeds) {
    // Never at the very moment at which a step ends: who is first then, nothing says.
    now_ns += deed.after_ms * kMs + 1;
    run.AdvanceTo(now_ns);
    const auto id = prompt.Submit(RequestOf(deed, number), now_ns);
    // Nobody has looked at this one since the last request.
    RC_ASSERT(late.Submit(RequestOf(deed, number++), now_ns).has_value() == id.has_value());
    if (id) ids.push_back(*id);
    if (deed.engine == 0) continue;
    while (late.NextStepEnd() && *late.NextStepEnd() <= now_ns) late.Advance(now_ns);
  }
  run.Finish();
  std::map<EngineRequestId, std::int64_t> ends;
  while (const auto end_ns = late.NextStepEnd()) {
    const EngineStep step = late.Advance(std::max(*end_ns, now_ns));
    for (const auto& token : step.tokens) {
      if (token.last) ends[token.id] = step.end_ns;
    }
  }
  for (const auto& [id, end_ns] : ends) RC_ASSERT(run.LastTokenOf(&prompt, id) == end_ns);
  RC_ASSERT(late.CachedHashes() == prompt.CachedHashes());
  RC_ASSERT(late.counters().finished == static_cast<std::int64_t>(ids.size()));
}

// A tokens' chain and the tokens announced for it name each other, so that no listener is misled.
RC_GTEST_PROP(EngineProperty, GivesOneNameToOneChain, ()) {
  Engine engine(OptionsOf({.blocks = 20}));
  VirtualRun run({&engine});
  const auto deeds = *rc::gen::container<std::vector<Deed>>(AnyDeed());
  int number = 0;
  for (const Deed& deed : deeds) {
    static_cast<void>(engine.Submit(RequestOf(deed, number++), run.now_ns()));
    run.Finish();
  }
  std::map<EngineHash, std::vector<TokenId>> chains;
  for (const KvEvent& event : run.EventsOf(&engine)) {
    if (event.what != KvEvent::What::kStored) continue;
    std::vector<TokenId> chain;
    if (event.parent) {
      RC_ASSERT(chains.contains(*event.parent));
      chain = chains[*event.parent];
    }
    for (std::size_t i = 0; i < event.blocks.size(); ++i) {
      const auto begin = event.tokens.begin() + static_cast<std::ptrdiff_t>(i * kBlockTokens);
      chain.insert(chain.end(), begin, begin + kBlockTokens);
      const auto [known, fresh] = chains.emplace(event.blocks[i], chain);
      RC_ASSERT(fresh || known->second == chain);
    }
  }
}

// One request at a time, of one token of output: then the cache is a plain LRU over blocks, in
// which a request takes what it needs and is put back with its last block the oldest.
class PlainLru {
 public:
  explicit PlainLru(std::size_t blocks) : empty_(blocks) {}

  // How many of the prompt's full blocks are found.
  int Ask(const EngineRequest& request) {
    const int full = static_cast<int>(request.prompt.size()) / kBlockTokens;
    const int most = (static_cast<int>(request.prompt.size()) - 1) / kBlockTokens;
    std::vector<std::vector<TokenId>> used;
    int found = 0;
    while (found < most) {
      const auto at = std::find(order_.begin(), order_.end(), Key(request, found));
      if (at == order_.end()) break;
      used.push_back(*at);
      order_.erase(at);
      ++found;
    }
    const int needed = (static_cast<int>(request.prompt.size()) + kBlockTokens - 1) / kBlockTokens;
    for (int block = found; block < needed; ++block) {
      // Blocks without content stand in the same queue, under no name.
      if (!order_.empty() && empty_ == 0) order_.pop_front();
      if (empty_ > 0) --empty_;
      used.push_back(block < full ? Key(request, block) : std::vector<TokenId>{});
    }
    for (auto block = used.rbegin(); block != used.rend(); ++block) order_.push_back(*block);
    return found;
  }

 private:
  static std::vector<TokenId> Key(const EngineRequest& request, int block) {
    return {request.prompt.begin(), request.prompt.begin() + (block + 1) * kBlockTokens};
  }

  std::size_t empty_;                      // Blocks that were never used: the first to be taken.
  std::list<std::vector<TokenId>> order_;  // The oldest first; the same content may be there twice.
};

RC_GTEST_PROP(EngineProperty, HitsWhatAPlainLruHits, ()) {
  const auto figures = Figures{.blocks = *rc::gen::inRange<std::int64_t>(8, 30)};
  auto deeds = *rc::gen::container<std::vector<Deed>>(AnyDeed());
  Engine engine(OptionsOf(figures));
  PlainLru lru(static_cast<std::size_t>(figures.blocks));
  VirtualRun run({&engine});
  int number = 0;
  for (Deed deed : deeds) {
    deed.by_content = false;
    deed.output = 1;
    const EngineRequest request = RequestOf(deed, number++);
    const auto id = engine.Submit(request, run.now_ns());
    RC_ASSERT(id.has_value());
    const auto found = engine.AdmissionOf(*id)->cached_tokens;
    RC_ASSERT(static_cast<int>(found) == lru.Ask(request) * kBlockTokens);
    run.Finish();
  }
}

// The queue of free blocks, the users and the names, against any order of calls.
RC_GTEST_PROP(BlockPoolProperty, StaysConsistent, (const std::vector<std::uint8_t>& calls)) {
  BlockPool pool(6);
  std::vector<BlockIndex> held;
  std::vector<EngineHash> evicted;
  for (const std::uint8_t call : calls) {
    const EngineHash hash = 1 + call / 4 % 5;
    const auto found = pool.Find(hash);
    if (call % 4 == 0 && pool.free() > 0) {
      held.push_back(pool.Take(evicted));
      if (call % 3 != 0) pool.Name(held.back(), hash);
    } else if (call % 4 == 1 && found) {
      pool.Touch(*found);
      held.push_back(*found);
    } else if (call % 4 == 2 && !held.empty()) {
      pool.Release(held.back());
      held.pop_back();
    } else if (call % 4 == 3) {
      RC_ASSERT(pool.Forget() == held.empty());
    }
    RC_ASSERT(pool.Consistent());
  }
}

}  // namespace
}  // namespace sublet
