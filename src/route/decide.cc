// One decision: who may have the request, what each of them looks like now, and which it is.
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>

#include "base/check.h"
#include "route/cost_model.h"
#include "route/decision_text.h"
#include "route/ranking.h"
#include "route/router_core.h"

namespace sublet {
namespace {

// How full the caches are, and how far the co-tenants of a GPU where nothing came and went have
// got, is looked at this often. The one changes within seconds, of the other 20 ms are as good as
// nothing beside a prefill.
constexpr std::int64_t kLookNs = 20'000'000;

std::uint64_t SessionKey(const RouteQuery& query) {
  const std::string_view session =
      query.session.empty() ? std::string_view(query.prefix->session) : query.session;
  if (session.empty()) return 0;
  return std::max<std::uint64_t>(1, XXH3_64bits(session.data(), session.size()));
}

// How much of the prompt everybody holds: bytes of a text, or tokens.
std::size_t HeldByAll(const RequestPrefix& prefix, const MatchSummary& summary) {
  if (prefix.text.empty()) return summary.tokens_everywhere;
  if (summary.prompt_tokens == 0) return 0;
  return static_cast<std::size_t>(static_cast<double>(prefix.text_bytes) *
                                  summary.tokens_everywhere / summary.prompt_tokens);
}

// How much of the prompt many begin with, in tokens.
std::uint32_t CommonTokens(const Beginning& beginning, const RequestPrefix& prefix,
                           std::uint32_t prompt_tokens) {
  if (prefix.text.empty()) return static_cast<std::uint32_t>(beginning.common);
  const double part =
      static_cast<double>(beginning.common) / static_cast<double>(prefix.text_bytes);
  return static_cast<std::uint32_t>(part * prompt_tokens);
}

Exclusion ExclusionOf(const ReplicaRecord& record, const RouteQuery& query, std::int64_t now_ns) {
  if (!query.pinned.empty() && record.spec.name != query.pinned) return Exclusion::kNotPinned;
  if (record.has_tenant && record.spec.tenant != query.tenant) {
    return Exclusion::kOtherTenant;
  }
  if (std::find(query.tried.begin(), query.tried.end(), record.slot) != query.tried.end()) {
    return Exclusion::kTried;
  }
  return record.ExclusionAt(now_ns);
}

}  // namespace

Exclusion ReplicaRecord::ExclusionAt(std::int64_t now_ns) const {
  if (draining) return Exclusion::kDraining;
  if (health == ReplicaHealth::kUnhealthy) return Exclusion::kUnhealthy;
  if (!breaker.Allows(now_ns)) return Exclusion::kBreaker;
  const ForeignLoad foreign = book.Foreign(now_ns);
  if (book.in_flight() + foreign.waiting + foreign.running + 1 > in_flight_max ||
      now_ns < full_until_ns) {
    return Exclusion::kFull;
  }
  return Exclusion::kNone;
}

Result<ServedModel*> RouterCore::ServersOf(const RouteQuery& query) {
  if (all.replicas.empty()) {
    return Fail(ErrorCode::kUnavailable, "there is no replica yet",
                "add one: to the configuration, or by POST /workers");
  }
  if (!query.pinned.empty()) {
    const ReplicaRecord* pinned = Find(query.pinned);
    if (pinned == nullptr) {
      return Fail(ErrorCode::kNotFound, "no such replica: " + std::string(query.pinned));
    }
  }
  const std::string& model = query.prefix->model;
  if (model.empty()) return &all;
  const auto found = models.find(model);
  if (found != models.end()) return &found->second;
  if (!unlisted.replicas.empty()) return &unlisted;
  return NoSuchModel(model, *this);
}

Status RouterCore::Gather(const ServedModel& served, const RouteQuery& query, std::int64_t now_ns) {
  candidates.clear();
  std::array<int, kExclusions> exclusions = {};
  const ReplicaRecord* down = nullptr;
  for (ReplicaRecord* record : served.replicas) {
    const Exclusion exclusion = ExclusionOf(*record, query, now_ns);
    if (exclusion == Exclusion::kNone) {
      candidates.push_back(record);
      continue;
    }
    ++exclusions[static_cast<std::size_t>(exclusion)];
    if (exclusion == Exclusion::kUnhealthy || exclusion == Exclusion::kBreaker) down = record;
  }
  if (!candidates.empty()) return {};
  return NobodyIsLeft(query, exclusions, down, *this);
}

void RouterCore::LookAtCaches(std::int64_t now_ns) {
  if (!pressures_old && now_ns - pressures_seen_ns < kLookNs) return;
  caches.Pressures(now_ns, pressures);
  pressures_seen_ns = now_ns;
  pressures_old = false;
}

CacheUse RouterCore::CacheUseOf(const ReplicaRecord& record, std::int64_t now_ns) const {
  CacheUse use;
  if (record.slot >= pressures.size() || !pressures[record.slot].there) return use;
  const CachePressure& cache = pressures[record.slot];
  use.knowledge = cache.knowledge;
  use.tokens_capacity = static_cast<double>(std::max<std::int64_t>(1, cache.tokens_capacity));
  use.tokens_in_use = std::max(static_cast<double>(record.book.tokens_in_use()),
                               record.book.ScrapedUse(now_ns) * use.tokens_capacity);
  return use;
}

void RouterCore::Show(GpuRecord& gpu, std::int64_t now_ns) {
  if (!gpu.shown_old && now_ns - gpu.shown_ns < kLookNs) return;
  loads.clear();
  for (ReplicaRecord* tenant : gpu.tenants) {
    if (tenant->book.MaySettle()) Settle(*tenant, now_ns);
    const double rate = tenant->rates.PrefillTokensPerSecond();
    loads.push_back({.sm_part = tenant->SmPart(),
                     .prefill_ms = tenant->QueuedTokens(now_ns) / rate * 1000,
                     .decoding = tenant->book.decoding()});
  }
  tenancies[gpu.index].Build(loads);
  gpu.shown_ns = now_ns;
  gpu.shown_old = false;
}

// Field by field: a view that is zeroed first takes twice as long.
ReplicaView RouterCore::ViewOf(ReplicaRecord& record, const CacheMatch& match,
                               std::int64_t now_ns) {
  if (record.book.MaySettle()) Settle(record, now_ns);
  const bool shared = record.gpu != nullptr && record.gpu->IsShared();
  if (shared) Show(*record.gpu, now_ns);
  record.busy.MoveTo(now_ns, record.book.prefills() > 0);
  const ForeignLoad foreign = record.book.Foreign(now_ns);
  const double decoding = record.book.decoding() + foreign.running;
  const CacheUse cache = CacheUseOf(record, now_ns);
  return {.slot = record.slot,
          .identity = record.identity,
          .in_flight = record.book.in_flight() + foreign.waiting + foreign.running,
          .queued_tokens = record.QueuedTokens(now_ns),
          .decoding = decoding,
          .busy = record.busy.part(),
          .prefill_tokens_per_second = record.rates.PrefillTokensPerSecond(),
          .decode_step_ms = decoding > 0 ? record.rates.DecodeStepMs(decoding) : 0,
          .slow_start = record.SlowStart(now_ns),
          .cached_tokens = match.tokens,
          .offloaded_tokens = match.tokens_offloaded,
          .knowledge = cache.knowledge,
          .tokens_in_use = cache.tokens_in_use,
          .tokens_capacity = cache.tokens_capacity,
          .gpu = shared ? static_cast<int>(record.gpu->index) : -1,
          .tenant = shared ? record.tenant_index : 0};
}

void RouterCore::MakeViews(std::int64_t now_ns) {
  static constexpr CacheMatch kNothing;
  views.resize(candidates.size());
  std::size_t match = 0;
  for (std::size_t r = 0; r < candidates.size(); ++r) {
    const ReplicaSlot slot = candidates[r]->slot;
    while (match < matches.size() && matches[match].slot < slot) ++match;
    const bool found = match < matches.size() && matches[match].slot == slot;
    views[r] = ViewOf(*candidates[r], found ? matches[match] : kNothing, now_ns);
  }
}

Result<std::size_t> RouterCore::Decide(const RouteQuery& query, std::int64_t now_ns,
                                       Decision& decision) {
  CHECK(query.prefix != nullptr);
  const RequestPrefix& prefix = *query.prefix;
  ASSIGN_OR_RETURN(ServedModel * served, ServersOf(query));
  RETURN_IF_ERROR(Gather(*served, query, now_ns));
  LookAtCaches(now_ns);
  const MatchSummary summary = caches.Match(prefix, matches);
  MakeViews(now_ns);

  const FleetView fleet{.replicas = views, .gpus = tenancies, .mean_prefills = mean_prefills};
  PolicyQuery policy_query{.prompt_tokens = summary.prompt_tokens,
                           .tokens_everywhere = summary.tokens_everywhere,
                           .ordinal = served->requests++,
                           .random = MixBits(options.seed * 0x9e3779b97f4a7c15 + ++draws),
                           .session = SessionKey(query)};
  const Beginning beginning =
      distinction.BeginningOf(prefix, served->replicas.size(), HeldByAll(prefix, summary));
  policy_query.affinity = beginning.key;
  policy_query.common_tokens = CommonTokens(beginning, prefix, policy_query.prompt_tokens);
  const PolicyChoice choice = policy.choose(fleet, policy_query);
  CHECK(choice.index < views.size());

  const ReplicaRecord& record = *candidates[choice.index];
  const ReplicaView& view = views[choice.index];
  decision.slot = record.slot;
  decision.replica = record.spec.name;
  decision.policy = policy.name;
  decision.prompt_tokens = policy_query.prompt_tokens;
  decision.cached_tokens = std::min(view.cached_tokens, decision.prompt_tokens);
  decision.uncached_tokens = static_cast<std::uint32_t>(UncachedTokens(view, policy_query));
  decision.hedge_after_ms = HedgeAfterMs(options.hedging, record.ttft);
  decision.reason = ReasonOf(decision, choice, *this);
  if (query.explain) decision.candidates = ExplainCosts(fleet, policy_query, *this);
  return choice.index;
}

}  // namespace sublet
