#include "route/decision_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "route/cost_model.h"

namespace sublet {
namespace {

// Of the models that are named in an error's hint.
constexpr int kModelsNamed = 8;

std::string Milliseconds(double ms) {
  return ms < 10 ? fmt::format("{:.1f} ms", ms) : fmt::format("{:.0f} ms", ms);
}

std::string Served(const RouteQuery& query) {
  if (!query.pinned.empty()) return std::string(query.pinned);
  if (query.prefix->model.empty()) return "the replicas";
  return "the replicas for " + query.prefix->model;
}

}  // namespace

std::string ReasonOf(const Decision& decision, const PolicyChoice& choice, const RouterCore& core) {
  std::string text = fmt::format("holds {} of {} tokens; {}", decision.cached_tokens,
                                 decision.prompt_tokens, choice.rule);
  if (choice.cost_ms) text += ", " + Milliseconds(*choice.cost_ms);
  if (choice.next_best && choice.next_best_ms) {
    text += fmt::format("; next best {}, {}", core.candidates[*choice.next_best]->spec.name,
                        Milliseconds(*choice.next_best_ms));
  }
  return text;
}

std::vector<CandidateCost> ExplainCosts(const FleetView& fleet, const PolicyQuery& query,
                                        const RouterCore& core) {
  const CostContext context = CostContextOf(fleet);
  std::vector<CandidateCost> costs;
  for (std::size_t r = 0; r < fleet.replicas.size(); ++r) {
    const ReplicaView& view = fleet.replicas[r];
    const CostTerms terms = CostOf(view, context, query);
    costs.push_back({.replica = core.candidates[r]->spec.name,
                     .cost_ms = terms.Total(),
                     .queue_ms = terms.queue_ms,
                     .prefill_ms = terms.prefill_ms,
                     .later_ms = terms.later_ms,
                     .pressure_ms = terms.pressure_ms,
                     .cotenant_ms = terms.cotenant_ms,
                     .decode_ms = terms.decode_ms,
                     .cached_tokens = std::min(view.cached_tokens, query.prompt_tokens),
                     .uncached_tokens = static_cast<std::uint32_t>(UncachedTokens(view, query)),
                     .knowledge = view.knowledge});
  }
  std::sort(costs.begin(), costs.end(), [](const CandidateCost& a, const CandidateCost& b) {
    return a.cost_ms != b.cost_ms ? a.cost_ms < b.cost_ms : a.replica < b.replica;
  });
  return costs;
}

tl::unexpected<Error> NoSuchModel(std::string_view model, const RouterCore& core) {
  std::string hint;
  int named = 0;
  for (const auto& [name, served] : core.models) {
    if (++named > kModelsNamed) {
      hint += fmt::format(" and {} more", core.models.size() - kModelsNamed);
      break;
    }
    hint += (hint.empty() ? "served are: " : ", ") + name;
  }
  return Fail(ErrorCode::kNotFound, fmt::format("no replica serves the model: {}", model), hint);
}

tl::unexpected<Error> NobodyIsLeft(const RouteQuery& query,
                                   const std::array<int, kExclusions>& exclusions,
                                   const ReplicaRecord* down, const RouterCore& core) {
  const auto count = [&](Exclusion exclusion) {
    return exclusions[static_cast<std::size_t>(exclusion)];
  };
  const int full = count(Exclusion::kFull);
  const int tried = count(Exclusion::kTried);
  const int ill = count(Exclusion::kUnhealthy) + count(Exclusion::kBreaker);
  const int draining = count(Exclusion::kDraining);
  if (full + tried + ill + draining == 0) {
    if (!query.pinned.empty()) {
      return Fail(ErrorCode::kNotFound,
                  fmt::format("{} doesn't serve {}", query.pinned, query.prefix->model));
    }
    return NoSuchModel(query.prefix->model, core);  // Others' replicas are nobody's business.
  }
  std::string counts;
  const auto tell = [&](int replicas, std::string_view what) {
    if (replicas > 0) counts += fmt::format("{}{} {}", counts.empty() ? "" : ", ", replicas, what);
  };
  tell(full, "full");
  tell(ill, "down");
  tell(draining, "draining");
  tell(tried, "tried already");
  if (full > 0) {
    return Fail(ErrorCode::kConflict,
                fmt::format("{} can take no more: {}", Served(query), counts));
  }
  std::string hint;
  if (down != nullptr) {
    const std::string_view why = down->health == ReplicaHealth::kUnhealthy
                                     ? std::string_view(down->why)
                                     : std::string_view("it failed too many requests");
    hint = fmt::format("{}: {}", down->spec.name, why.empty() ? "unhealthy" : why);
  }
  return Fail(ErrorCode::kUnavailable, fmt::format("{} are not there: {}", Served(query), counts),
              hint);
}

}  // namespace sublet
