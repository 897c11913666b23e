// sim/engine/engine.h
//
// A serving engine without a model: it keeps real books of KV blocks, batches continuously, and
// takes the time that a real one would take.
//
//   Engine engine({.kv_blocks = 1600, .block_tokens = 512, .prefill_tokens_per_second = 8000});
//   ASSIGN_OR_RETURN(const EngineRequestId id,
//                    engine.Submit({.prompt = tokens, .output_tokens = 120}, now_ns));
//   EngineStep step;
//   while (const auto at_ns = engine.NextStepEnd()) {
//     engine.Advance(*at_ns, step);
//     for (const EngineStep::Token& token : step.tokens) ...
//     caches.Apply(slot, KvEventBatch{.events = step.events}, *at_ns);
//   }
//
// What it does as vLLM's V1 engine does: each step takes up to `step_tokens` tokens, of which each
// decoding sequence gets one and prompts share the rest in order (chunked prefill); prompts find
// their prefix among the cached blocks when their prefill starts, and at least their last token is
// computed; full blocks are cached, of a finished request too, until they are needed, the least
// recently used first and a request's last ones before its first; a step that has no block for a
// sequence preempts the youngest, which starts anew and finds what is still cached of itself.
//
// Each block cached or evicted is an event. As in vLLM, a block that is computed although another
// with the same content is cached (two equal prompts at a time, the last block of a prompt that was
// found whole) is cached besides it, and announced: a block is gone when it was announced removed
// as often as stored.
//
// Time is a parameter, so that the same code serves over sockets in real time and replays an hour
// of a trace in seconds. A step takes
//
//   step_overhead_ms + prefill tokens / prefill_tokens_per_second + decodes · decode_ms_a_sequence
//
// alone, and longer while others of its SharedGpu are busy (engine/shared_gpu.h). The same calls
// give the same answers. In virtual time, of all engines of a SharedGpu the one whose step ends
// first must be advanced first, and before anything is submitted later than that; engines advanced
// late, as in real time they are, lose nothing but exactness.
//
// A prompt is given as its tokens or, for traces that name only their blocks, as `contents`: a
// number for the content of each block. Such a prompt costs some nanoseconds a block, and its
// events carry tokens all the same, those of ContentTokens(), so that a router that is asked with
// these tokens finds what is announced.
//
// The output is a function of prompt, seed and `variant`: any engine gives the same answer, and
// the prompt that goes on with an answer finds its blocks.
//
// Thread safety: one thread at a time, for all engines of a SharedGpu together.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/shared_gpu.h"
#include "kvcache/kv_event.h"

namespace sublet {

struct EngineOptions {
  std::string model = "demo";
  std::int64_t kv_blocks = 4096;
  int block_tokens = 16;
  double prefill_tokens_per_second = 8000;  // Alone on its share.
  double step_overhead_ms = 4;              // Of any step.
  double decode_ms_a_sequence = 0.25;       // Besides that, of each sequence in the batch.
  int step_tokens = 8192;                   // vLLM's max_num_batched_tokens.
  int sequences_max = 256;                  // vLLM's max_num_seqs.
  bool prefix_caching = true;
  bool kv_events = true;   // Off: EngineStep::events stays empty.
  std::uint64_t seed = 1;  // Of what is generated.
  EngineShare share = {};
};

struct EngineRequest {
  // One of the two: the prompt's tokens, or a number for each of its blocks, the last and not full
  // one included, with the prompt's length.
  std::vector<TokenId> prompt = {};
  std::vector<std::uint64_t> contents = {};
  int prompt_tokens = 0;  // Of `contents`; otherwise unused.

  int output_tokens = 1;
  std::string lora = {};
  std::string salt = {};
  int variant = 0;  // Which of several answers to one prompt.
};

// The tokens that stand for such a prompt, in events and for a router.
std::vector<TokenId> ContentTokens(std::span<const std::uint64_t> contents, int prompt_tokens,
                                   int block_tokens);

using EngineRequestId = std::uint64_t;

// What a step brought.
struct EngineStep {
  std::int64_t begin_ns = 0;
  std::int64_t end_ns = 0;
  struct Token {
    EngineRequestId id = 0;
    TokenId token = 0;
    bool first = false;
    bool last = false;
  };
  std::vector<Token> tokens;
  std::vector<KvEvent> events;  // In the order in which they happened.
};

struct EngineAdmission {
  std::uint32_t cached_tokens = 0;  // Of the prompt, found when its prefill started.
  std::int64_t start_ns = 0;        // When it did.
};

struct EngineCounters {
  std::int64_t prompt_tokens = 0;  // Of requests whose prefill started, preempted ones once.
  std::int64_t cached_tokens = 0;
  std::int64_t computed_tokens = 0;  // In prefill; with what was computed again after preemption.
  std::int64_t output_tokens = 0;
  std::int64_t preemptions = 0;
  std::int64_t finished = 0;
  std::int64_t cancelled = 0;
  std::int64_t steps = 0;
  std::int64_t busy_ns = 0;  // Of the steps.
};

class Engine {
 public:
  // Without a GPU it has one for itself.
  // REQUIRES: positive sizes and rates.
  explicit Engine(const EngineOptions& options, std::shared_ptr<SharedGpu> gpu = nullptr);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Where nothing runs, the first step begins at once. Fails with kInvalid where prompt and output
  // can't ever fit the cache, where there is no prompt, and where `contents` and `prompt_tokens`
  // don't go together. Ids count up from 1.
  Result<EngineRequestId> Submit(EngineRequest request, std::int64_t now_ns);
  // Gives its blocks back; the step that computes for it goes on. An id that is gone is none.
  void Cancel(EngineRequestId id);

  // When the step that runs ends; none: nothing to do. With a SharedGpu it changes when another
  // engine begins or ends a step.
  std::optional<std::int64_t> NextStepEnd() const;
  // REQUIRES: now_ns >= *NextStepEnd(). Ends that step and begins the next. `step` is filled anew,
  // keeping its memory.
  void Advance(std::int64_t now_ns, EngineStep& step);
  EngineStep Advance(std::int64_t now_ns);

  // Forgets all cached blocks (vLLM's reset_prefix_cache). kConflict where requests hold blocks.
  Status ResetPrefixCache();
  // Events that no step has brought yet; Advance() takes them by itself.
  std::vector<KvEvent> TakeEvents();

  const EngineOptions& options() const;
  const EngineCounters& counters() const;
  // Of a request whose prefill started; a finished one is known until the Advance() after the one
  // that brought its last token.
  std::optional<EngineAdmission> AdmissionOf(EngineRequestId id) const;
  int running() const;
  int waiting() const;
  std::int64_t blocks_used() const;    // By requests.
  std::int64_t blocks_cached() const;  // With content, in use or not.

  // The content of the cache, each hash as often as there are blocks of it, sorted: what replaying
  // all events gives.
  std::vector<EngineHash> CachedHashes() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sublet
