#include "route/router.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "route/lease_state.h"
#include "route/router_core.h"

namespace sublet {
namespace {

// An engine runs at most some hundred choices of a request; more is a client's joke.
constexpr int kChoicesMax = 128;

tl::unexpected<Error> NoSuchReplica(std::string_view name) {
  return Fail(ErrorCode::kNotFound, "no such replica: " + std::string(name));
}

ReplicaStatus StatusOf(const RouterCore& core, const ReplicaRecord& record, std::int64_t now_ns) {
  const LoadBook& book = record.book;
  ReplicaStatus status;
  status.spec = record.spec;
  status.slot = record.slot;
  status.health = record.health;
  status.why = record.why;
  const BreakerState breaker = record.breaker.StateAt(now_ns);
  status.breaker = BreakerStateName(breaker);
  if (status.why.empty() && breaker != BreakerState::kClosed) status.why = "it failed requests";
  status.draining = record.draining;
  status.slow_start = record.SlowStart(now_ns);
  status.in_flight = book.in_flight();
  status.decoding = book.decoding();
  status.prefill_tokens_queued = record.QueuedTokens(now_ns);
  status.prefill_tokens_per_second = record.rates.PrefillTokensPerSecond();
  status.rate_learnt = record.rates.PrefillLearnt();
  status.decode_step_ms = record.rates.DecodeStepMs(std::max(1, book.decoding()));
  status.scraped = book.scraped();
  status.scraped_age_s = book.ScrapeAge(now_ns);
  status.cache = core.caches.StatusOf(record.slot, now_ns);
  status.chosen = record.chosen;
  status.served = record.served;
  status.failed = record.failed;
  status.prompt_tokens = record.prompt_tokens;
  status.cached_tokens = record.cached_tokens;
  return status;
}

}  // namespace

RouterCore::RouterCore(const RouterOptions& router_options, const Policy& first_policy,
                       FleetCache& fleet)
    : options(router_options), caches(fleet), policy(first_policy) {}

double RouterCore::DecodeSlowdownOf(const ReplicaRecord& record) const {
  if (record.gpu == nullptr) return 1;
  int decoding = 0;
  for (const ReplicaRecord* tenant : record.gpu->tenants) {
    decoding += tenant->book.decoding() > 0 ? 1 : 0;
  }
  return SlowdownAt(decoding * kBandwidthAlone);
}

Result<std::unique_ptr<Router>> Router::Make(const RouterOptions& options, FleetCache& caches) {
  ASSIGN_OR_RETURN(const Policy policy, FindPolicy(options.policy));
  return std::unique_ptr<Router>(new Router(std::make_shared<RouterCore>(options, policy, caches)));
}

Router::Router(std::shared_ptr<RouterCore> core) : core_(std::move(core)) {}

Router::~Router() {
  const std::lock_guard lock(core_->mutex);
  core_->closed = true;
}

Result<ReplicaSlot> Router::Add(const ReplicaSpec& spec, std::int64_t now_ns) {
  const std::lock_guard lock(core_->mutex);
  return core_->Add(spec, core_->SeenNow(now_ns));
}

Status Router::Drain(std::string_view name) {
  const std::lock_guard lock(core_->mutex);
  ReplicaRecord* record = core_->Find(name);
  if (record == nullptr) return NoSuchReplica(name);
  record->draining = true;
  return {};
}

Status Router::Remove(std::string_view name) {
  const std::lock_guard lock(core_->mutex);
  ReplicaRecord* record = core_->Find(name);
  if (record == nullptr) return NoSuchReplica(name);
  core_->Remove(*record);
  return {};
}

Status Router::Update(const ReplicaSpec& spec, std::int64_t now_ns) {
  const std::lock_guard lock(core_->mutex);
  ReplicaRecord* record = core_->Find(spec.name);
  if (record == nullptr) return NoSuchReplica(spec.name);
  return core_->Update(*record, spec, core_->SeenNow(now_ns));
}

Result<Lease> Router::Choose(const RouteQuery& query, std::int64_t now_ns) {
  auto state = std::make_unique<LeaseState>();
  state->core = core_;
  const RequestPrefix& prefix = *query.prefix;

  const std::lock_guard lock(core_->mutex);
  now_ns = core_->SeenNow(now_ns);
  core_->NoteAll();
  ASSIGN_OR_RETURN(const std::size_t index, core_->Decide(query, now_ns, state->decision));
  ReplicaRecord& record = *core_->candidates[index];
  state->record = core_->by_slot[record.slot];
  state->url = record.spec.url;
  state->sent_ns = now_ns;
  state->breaker_epoch = record.breaker.OnSent(now_ns);
  core_->BeforeLoadChanges(record, now_ns);
  record.book.Send(state->entry,
                   {.uncached_tokens = state->decision.uncached_tokens,
                    .sequences = std::clamp(prefix.choices, 1, kChoicesMax),
                    .silent = !prefix.stream},
                   record.WorkAt(now_ns));
  core_->AfterLoadChanged(record);
  if (!prefix.text.empty() || !prefix.token_ids.empty()) {
    state->to_note = prefix;
    core_->to_note.push_back(state.get());
  }
  ++record.chosen;
  return Lease(std::move(state));
}

void Router::OnHealth(ReplicaSlot slot, ReplicaHealth health, std::string why,
                      std::int64_t now_ns) {
  const std::lock_guard lock(core_->mutex);
  ReplicaRecord* record = core_->At(slot);
  if (record == nullptr) return;
  now_ns = core_->SeenNow(now_ns);
  if (health == ReplicaHealth::kHealthy && record->health == ReplicaHealth::kUnhealthy) {
    // What comes back was started anew, more often than not.
    record->slow_since_ns = now_ns;
    record->breaker.EndPause(now_ns);
  }
  record->health = health;
  record->why = std::move(why);
}

void Router::OnScrape(ReplicaSlot slot, const EngineLoad& load, std::int64_t now_ns) {
  const std::lock_guard lock(core_->mutex);
  ReplicaRecord* record = core_->At(slot);
  if (record == nullptr) return;
  now_ns = core_->SeenNow(now_ns);
  const ReplicaCacheOptions before = core_->CacheOptionsOf(*record);
  record->book.OnScrape(load, now_ns);
  const ReplicaCacheOptions after = core_->CacheOptionsOf(*record);
  if (before.blocks != after.blocks || before.block_tokens != after.block_tokens) {
    core_->caches.Update(slot, after, now_ns);
    core_->pressures_old = true;
  }
}

void Router::OnModels(ReplicaSlot slot, std::vector<std::string> models) {
  const std::lock_guard lock(core_->mutex);
  ReplicaRecord* record = core_->At(slot);
  if (record == nullptr) return;
  std::sort(models.begin(), models.end());
  models.erase(std::unique(models.begin(), models.end()), models.end());
  if (record->models_known && record->spec.models == models) return;
  record->models_known = true;
  record->spec.models = std::move(models);
  core_->caches.Update(slot, core_->CacheOptionsOf(*record), core_->last_now_ns);
  core_->Rebuild(core_->last_now_ns);
}

Status Router::SetPolicy(std::string_view name) {
  ASSIGN_OR_RETURN(const Policy policy, FindPolicy(name));
  const std::lock_guard lock(core_->mutex);
  core_->policy = policy;
  return {};
}

std::string_view Router::policy() const {
  const std::lock_guard lock(core_->mutex);
  return core_->policy.name;  // A constant's.
}

std::vector<ReplicaStatus> Router::Replicas(std::int64_t now_ns) const {
  const std::lock_guard lock(core_->mutex);
  now_ns = core_->SeenNow(now_ns);
  std::vector<ReplicaStatus> statuses;
  for (const auto& [name, record] : core_->by_name) {
    statuses.push_back(StatusOf(*core_, *record, now_ns));
  }
  return statuses;
}

std::optional<ReplicaSlot> Router::SlotOf(std::string_view name) const {
  const std::lock_guard lock(core_->mutex);
  const ReplicaRecord* record = core_->Find(name);
  if (record == nullptr) return std::nullopt;
  return record->slot;
}

std::vector<std::string> Router::Models() const {
  const std::lock_guard lock(core_->mutex);
  std::vector<std::string> names;
  for (const auto& [name, served] : core_->models) names.push_back(name);
  return names;
}

}  // namespace sublet
