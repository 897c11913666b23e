// sim/engine/tests/virtual_run.h
//
// Runs engines in virtual time: what is submitted and what comes out, in the order of time.
//
//   VirtualRun run({&chat, &code});
//   run.AdvanceTo(at_ns);
//   const EngineRequestId id = *chat.Submit(...);
//   run.Finish();
//   run.LastTokenOf(&chat, id)
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace sublet {

class VirtualRun {
 public:
  explicit VirtualRun(std::vector<Engine*> engines) : engines_(std::move(engines)) {}

  // Ends all steps that end by then.
  void AdvanceTo(std::int64_t at_ns) {
    while (Engine* const next = Next(at_ns)) {
      next->Advance(*next->NextStepEnd(), step_);
      now_ns_ = step_.end_ns;
      ++steps_;
      for (const EngineStep::Token& token : step_.tokens) {
        if (token.first) first_[{next, token.id}] = step_.end_ns;
        if (token.last) last_[{next, token.id}] = step_.end_ns;
        output_[{next, token.id}].push_back(token.token);
      }
      for (const KvEvent& event : step_.events) events_[next].push_back(event);
    }
    if (at_ns != INT64_MAX) now_ns_ = std::max(now_ns_, at_ns);
  }
  void Finish() { AdvanceTo(INT64_MAX); }

  std::int64_t now_ns() const { return now_ns_; }
  int steps() const { return steps_; }
  std::optional<std::int64_t> FirstTokenOf(Engine* engine, EngineRequestId id) const {
    const auto found = first_.find({engine, id});
    if (found == first_.end()) return std::nullopt;
    return found->second;
  }
  std::optional<std::int64_t> LastTokenOf(Engine* engine, EngineRequestId id) const {
    const auto found = last_.find({engine, id});
    if (found == last_.end()) return std::nullopt;
    return found->second;
  }
  const std::vector<TokenId>& OutputOf(Engine* engine, EngineRequestId id) {
    return output_[{engine, id}];
  }
  const std::vector<KvEvent>& EventsOf(Engine* engine) { return events_[engine]; }

 private:
  using Key = std::pair<Engine*, EngineRequestId>;
  Engine* Next(std::int64_t at_ns) const {
    Engine* next = nullptr;
    std::int64_t best_ns = at_ns;
    for (Engine* const engine : engines_) {
      const auto end_ns = engine->NextStepEnd();
      if (end_ns && (*end_ns < best_ns || (*end_ns == best_ns && next == nullptr))) {
        best_ns = *end_ns;
        next = engine;
      }
    }
    return next;
  }

  const std::vector<Engine*> engines_;
  EngineStep step_;
  std::int64_t now_ns_ = 0;
  int steps_ = 0;
  std::map<Key, std::int64_t> first_;
  std::map<Key, std::int64_t> last_;
  std::map<Key, std::vector<TokenId>> output_;
  std::map<Engine*, std::vector<KvEvent>> events_;
};

// What a listener that believes every event takes for the cache's content: each hash as often as it
// was stored and not yet removed, sorted.
inline std::vector<EngineHash> Replayed(const std::vector<KvEvent>& events) {
  std::map<EngineHash, int> held;
  for (const KvEvent& event : events) {
    if (event.what == KvEvent::What::kCleared) held.clear();
    const int change = event.what == KvEvent::What::kStored ? 1 : -1;
    for (const EngineHash hash : event.blocks) held[hash] += change;
  }
  std::vector<EngineHash> hashes;
  for (const auto& [hash, count] : held) {
    // A hash that was removed more often than stored shows up as the impossible 0.
    if (count < 0) hashes.push_back(0);
    for (int i = 0; i < count; ++i) hashes.push_back(hash);
  }
  return hashes;
}

}  // namespace sublet
