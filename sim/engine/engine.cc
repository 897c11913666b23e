#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "engine/block_pool.h"
#include "engine/sequence.h"

namespace sublet {
namespace {

int DivideUp(int a, int b) {
  return (a + b - 1) / b;
}

}  // namespace

class Engine::Impl {
 public:
  Impl(const EngineOptions& options, std::shared_ptr<SharedGpu> gpu)
      : options_(options),
        gpu_(gpu ? std::move(gpu) : std::make_shared<SharedGpu>()),
        tenant_(gpu_->Enter(options_.share)),
        pool_(options_.kv_blocks) {
    CHECK(options_.block_tokens > 0 && options_.step_tokens > 0 && options_.sequences_max > 0);
    CHECK(options_.prefill_tokens_per_second > 0);
  }
  ~Impl() { gpu_->Leave(tenant_); }

  Result<EngineRequestId> Submit(EngineRequest request, std::int64_t now_ns);
  void Cancel(EngineRequestId id);
  std::optional<std::int64_t> NextStepEnd() const { return gpu_->EndOf(tenant_); }
  void Advance(std::int64_t now_ns, EngineStep& step);
  Status ResetPrefixCache();
  std::vector<KvEvent> TakeEvents() { return std::exchange(events_, {}); }

  const EngineOptions& options() const { return options_; }
  const EngineCounters& counters() const { return counters_; }
  const BlockPool& pool() const { return pool_; }
  std::optional<EngineAdmission> AdmissionOf(EngineRequestId id) const;
  int running() const { return static_cast<int>(running_.size()); }
  int waiting() const { return static_cast<int>(waiting_.size()); }

 private:
  Status Check(const EngineRequest& request) const;
  void BeginStep(std::int64_t now_ns);
  void Schedule(std::int64_t now_ns);
  bool ScheduleRunning();
  void ScheduleWaiting(std::int64_t now_ns);
  void Plan(Sequence& sequence, int tokens);
  void EndStep(EngineStep& step);

  bool Admit(Sequence& sequence, int tokens_max);
  bool Grow(Sequence& sequence, int tokens);
  int FindCached(Sequence& sequence, std::vector<BlockIndex>& found);
  void Take(Sequence& sequence, int blocks);
  void Cache(Sequence& sequence, int tokens);
  void Free(Sequence& sequence);
  void Preempt(Sequence& sequence);

  const EngineOptions options_;
  const std::shared_ptr<SharedGpu> gpu_;
  const SharedGpu::Tenant tenant_;
  BlockPool pool_;
  EngineCounters counters_;
  EngineRequestId last_id_ = 0;

  std::unordered_map<EngineRequestId, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> running_;         // The longest admitted first.
  std::deque<Sequence*> waiting_;          // Preempted ones in front.
  std::vector<EngineRequestId> finished_;  // By the last step; still asked about.

  // The step that runs.
  std::vector<Sequence*> batch_;  // Null: cancelled meanwhile.
  int budget_ = 0;
  int prefill_tokens_ = 0;
  int decodes_ = 0;
  std::int64_t began_ns_ = 0;

  std::vector<KvEvent> events_;
  std::vector<BlockIndex> found_;  // Kept for their memory.
  std::vector<EngineHash> evicted_;
};

// ---- requests ----------------------------------------------------------------------------------

Status Engine::Impl::Check(const EngineRequest& request) const {
  const bool by_content = request.prompt.empty();
  const auto prompt_tokens =
      by_content ? request.prompt_tokens : static_cast<std::int64_t>(request.prompt.size());
  if (prompt_tokens <= 0 || request.output_tokens <= 0) {
    return Fail(ErrorCode::kInvalid, "a request needs a prompt and at least one token of output");
  }
  const std::int64_t contents = (prompt_tokens + options_.block_tokens - 1) / options_.block_tokens;
  if (by_content && contents != static_cast<std::int64_t>(request.contents.size())) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("{} tokens in blocks of {} have {} contents, not {}", prompt_tokens,
                            options_.block_tokens, contents, request.contents.size()));
  }
  // The last token of the output is never computed on.
  const std::int64_t tokens = prompt_tokens + request.output_tokens - 1;
  const std::int64_t tokens_max = options_.kv_blocks * options_.block_tokens;
  if (tokens > tokens_max) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("a prompt of {} tokens and {} of output don't fit a cache of {} tokens",
                            prompt_tokens, request.output_tokens, tokens_max));
  }
  return {};
}

Result<EngineRequestId> Engine::Impl::Submit(EngineRequest request, std::int64_t now_ns) {
  RETURN_IF_ERROR(Check(request));
  const EngineRequestId id = ++last_id_;
  auto sequence = std::make_unique<Sequence>(id, std::move(request), options_, now_ns);
  waiting_.push_back(sequence.get());
  sequences_.emplace(id, std::move(sequence));
  if (!NextStepEnd()) BeginStep(now_ns);
  return id;
}

void Engine::Impl::Cancel(EngineRequestId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end() || found->second->finished()) return;
  Sequence* const sequence = found->second.get();
  Free(*sequence);
  std::erase(running_, sequence);
  std::erase(waiting_, sequence);
  std::replace(batch_.begin(), batch_.end(), sequence, static_cast<Sequence*>(nullptr));
  sequences_.erase(found);
  ++counters_.cancelled;
}

std::optional<EngineAdmission> Engine::Impl::AdmissionOf(EngineRequestId id) const {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return std::nullopt;
  return found->second->admission;
}

// ---- steps -------------------------------------------------------------------------------------

void Engine::Impl::Advance(std::int64_t now_ns, EngineStep& step) {
  const std::optional<std::int64_t> end_ns = NextStepEnd();
  CHECK(end_ns && now_ns >= *end_ns);
  for (const EngineRequestId id : finished_) sequences_.erase(id);
  finished_.clear();
  step.begin_ns = began_ns_;
  step.end_ns = *end_ns;
  step.tokens.clear();
  gpu_->End(tenant_, *end_ns);
  EndStep(step);
  step.events.swap(events_);
  events_.clear();
  // What arrived after the step's end, before anybody looked, isn't part of a step from then on.
  if (!running_.empty()) {
    BeginStep(*end_ns);
  } else if (!waiting_.empty()) {
    BeginStep(std::max(*end_ns, waiting_.front()->arrival_ns()));
  }
}

void Engine::Impl::EndStep(EngineStep& step) {
  ++counters_.steps;
  counters_.busy_ns += step.end_ns - step.begin_ns;
  bool any_finished = false;
  for (Sequence* const sequence : batch_) {
    if (sequence == nullptr) continue;
    sequence->computed += std::exchange(sequence->scheduled, 0);
    if (sequence->computed < sequence->length()) continue;  // More of its prompt is to come.
    const bool first = sequence->generated() == 0;
    const TokenId token = sequence->Generate();
    ++counters_.output_tokens;
    step.tokens.push_back({sequence->id(), token, first, sequence->finished()});
    if (!sequence->finished()) continue;
    Free(*sequence);
    finished_.push_back(sequence->id());
    ++counters_.finished;
    any_finished = true;
  }
  if (any_finished) std::erase_if(running_, [](const Sequence* each) { return each->finished(); });
  batch_.clear();
}

void Engine::Impl::BeginStep(std::int64_t now_ns) {
  Schedule(now_ns);
  if (batch_.empty()) return;
  constexpr double kNsAMs = 1e6;
  const double compute_ns = prefill_tokens_ / options_.prefill_tokens_per_second * 1e9;
  const double memory_ns =
      (options_.step_overhead_ms + decodes_ * options_.decode_ms_a_sequence) * kNsAMs;
  gpu_->Begin(tenant_, compute_ns, memory_ns, now_ns);
  began_ns_ = gpu_->clock_ns();
}

void Engine::Impl::Schedule(std::int64_t now_ns) {
  batch_.clear();
  budget_ = options_.step_tokens;
  prefill_tokens_ = decodes_ = 0;
  const bool preempted = ScheduleRunning();
  // Who was preempted comes first, and there is no room for him now.
  if (!preempted) ScheduleWaiting(now_ns);
  counters_.computed_tokens += prefill_tokens_;
}

// True where somebody was preempted.
bool Engine::Impl::ScheduleRunning() {
  bool preempted = false;
  for (std::size_t i = 0; i < running_.size() && budget_ > 0; ++i) {
    Sequence& sequence = *running_[i];
    const int tokens = std::min(sequence.length() - sequence.computed, budget_);
    while (i < running_.size() && !Grow(sequence, tokens)) {
      Sequence& youngest = *running_.back();
      running_.pop_back();
      Preempt(youngest);
      preempted = true;
    }
    if (i < running_.size()) Plan(sequence, tokens);
  }
  return preempted;
}

void Engine::Impl::ScheduleWaiting(std::int64_t now_ns) {
  while (!waiting_.empty() && budget_ > 0 &&
         running_.size() < static_cast<std::size_t>(options_.sequences_max)) {
    Sequence& sequence = *waiting_.front();
    if (sequence.arrival_ns() > now_ns || !Admit(sequence, budget_)) return;
    waiting_.pop_front();
    running_.push_back(&sequence);
    if (!sequence.admission) {
      sequence.admission = EngineAdmission{static_cast<std::uint32_t>(sequence.computed), now_ns};
      counters_.prompt_tokens += sequence.prompt_tokens();
      counters_.cached_tokens += sequence.computed;
    }
    Plan(sequence, std::min(sequence.length() - sequence.computed, budget_));
  }
}

void Engine::Impl::Plan(Sequence& sequence, int tokens) {
  const bool decodes = sequence.generated() > 0 && sequence.computed + 1 == sequence.length();
  (decodes ? decodes_ : prefill_tokens_) += tokens;
  sequence.scheduled = tokens;
  budget_ -= tokens;
  batch_.push_back(&sequence);
}

// ---- blocks ------------------------------------------------------------------------------------

// Blocks for a sequence that has none, its prefix from the cache, up to `tokens_max` tokens to
// compute. False, and nothing has changed, where there aren't enough.
bool Engine::Impl::Admit(Sequence& sequence, int tokens_max) {
  const int found = FindCached(sequence, found_);
  const int computed = found * options_.block_tokens;
  const int tokens = std::min(sequence.length() - computed, tokens_max);
  const int needed = DivideUp(computed + tokens, options_.block_tokens) - found;
  const auto idle = std::count_if(found_.begin(), found_.end(),
                                  [this](BlockIndex block) { return pool_.IsFree(block); });
  if (needed + idle > pool_.free()) return false;
  for (const BlockIndex block : found_) pool_.Touch(block);
  sequence.blocks = found_;
  sequence.computed = computed;
  sequence.cached = found;
  Take(sequence, needed);
  Cache(sequence, computed + tokens);
  return true;
}

bool Engine::Impl::Grow(Sequence& sequence, int tokens) {
  const int needed = DivideUp(sequence.computed + tokens, options_.block_tokens) -
                     static_cast<int>(sequence.blocks.size());
  if (needed > pool_.free()) return false;
  Take(sequence, needed);
  Cache(sequence, sequence.computed + tokens);
  return true;
}

// How many blocks of its prefix are there. The last token is computed in any case, since the next
// one comes out of it; as blocks are found whole, that can be a whole block.
int Engine::Impl::FindCached(Sequence& sequence, std::vector<BlockIndex>& found) {
  found.clear();
  if (!options_.prefix_caching) return 0;
  const int blocks_max = (sequence.length() - 1) / options_.block_tokens;
  sequence.NameBlocks(blocks_max);
  for (int i = 0; i < blocks_max; ++i) {
    const auto block = pool_.Find(sequence.hashes()[static_cast<std::size_t>(i)]);
    if (!block) break;
    found.push_back(*block);
  }
  return static_cast<int>(found.size());
}

void Engine::Impl::Take(Sequence& sequence, int blocks) {
  evicted_.clear();
  for (int i = 0; i < blocks; ++i) sequence.blocks.push_back(pool_.Take(evicted_));
  if (evicted_.empty() || !options_.kv_events) return;
  KvEvent event;
  event.what = KvEvent::What::kRemoved;
  event.blocks = evicted_;
  events_.push_back(std::move(event));
}

// Gives a name to each block that `tokens` tokens fill: the step that computes them begins now.
void Engine::Impl::Cache(Sequence& sequence, int tokens) {
  const int full = tokens / options_.block_tokens;
  const int first = sequence.cached;
  if (!options_.prefix_caching || full == first) return;
  sequence.NameBlocks(full);
  const auto& hashes = sequence.hashes();
  for (int i = first; i < full; ++i) {
    pool_.Name(sequence.blocks[static_cast<std::size_t>(i)], hashes[static_cast<std::size_t>(i)]);
  }
  sequence.cached = full;
  if (!options_.kv_events) return;
  KvEvent event;
  event.what = KvEvent::What::kStored;
  event.blocks.assign(hashes.begin() + first, hashes.begin() + full);
  if (first > 0) event.parent = hashes[static_cast<std::size_t>(first) - 1];
  event.tokens.reserve(event.blocks.size() * static_cast<std::size_t>(options_.block_tokens));
  sequence.AppendTokens(first, full, event.tokens);
  event.block_tokens = options_.block_tokens;
  event.lora = sequence.lora();
  if (first == 0 && !sequence.salt().empty()) {
    event.extra.resize(event.blocks.size());
    event.extra.front() = sequence.salt();
  }
  events_.push_back(std::move(event));
}

// The last block first, so that it is the first to be evicted.
void Engine::Impl::Free(Sequence& sequence) {
  for (auto block = sequence.blocks.rbegin(); block != sequence.blocks.rend(); ++block) {
    pool_.Release(*block);
  }
  sequence.blocks.clear();
}

void Engine::Impl::Preempt(Sequence& sequence) {
  Free(sequence);
  sequence.computed = sequence.cached = 0;
  waiting_.push_front(&sequence);
  ++counters_.preemptions;
}

Status Engine::Impl::ResetPrefixCache() {
  if (!pool_.Forget()) {
    return Fail(ErrorCode::kConflict,
                fmt::format("requests hold blocks: {}", pool_.size() - pool_.free()));
  }
  if (options_.kv_events) events_.emplace_back().what = KvEvent::What::kCleared;
  return {};
}

// ---- the outside -------------------------------------------------------------------------------

Engine::Engine(const EngineOptions& options, std::shared_ptr<SharedGpu> gpu)
    : impl_(std::make_unique<Impl>(options, std::move(gpu))) {}
Engine::~Engine() = default;

Result<EngineRequestId> Engine::Submit(EngineRequest request, std::int64_t now_ns) {
  return impl_->Submit(std::move(request), now_ns);
}
void Engine::Cancel(EngineRequestId id) {
  impl_->Cancel(id);
}
std::optional<std::int64_t> Engine::NextStepEnd() const {
  return impl_->NextStepEnd();
}
void Engine::Advance(std::int64_t now_ns, EngineStep& step) {
  impl_->Advance(now_ns, step);
}
EngineStep Engine::Advance(std::int64_t now_ns) {
  EngineStep step;
  impl_->Advance(now_ns, step);
  return step;
}
Status Engine::ResetPrefixCache() {
  return impl_->ResetPrefixCache();
}
std::vector<KvEvent> Engine::TakeEvents() {
  return impl_->TakeEvents();
}
const EngineOptions& Engine::options() const {
  return impl_->options();
}
const EngineCounters& Engine::counters() const {
  return impl_->counters();
}
std::optional<EngineAdmission> Engine::AdmissionOf(EngineRequestId id) const {
  return impl_->AdmissionOf(id);
}
int Engine::running() const {
  return impl_->running();
}
int Engine::waiting() const {
  return impl_->waiting();
}
std::int64_t Engine::blocks_used() const {
  return impl_->pool().size() - impl_->pool().free();
}
std::int64_t Engine::blocks_cached() const {
  return impl_->pool().named();
}
std::vector<EngineHash> Engine::CachedHashes() const {
  return impl_->pool().Hashes();
}

}  // namespace sublet
