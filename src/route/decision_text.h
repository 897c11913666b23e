// route/decision_text.h
//
// Inside the router: a decision, and the want of one, in words.
//
// Thread safety: the router's lock.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "route/policy.h"
#include "route/router_core.h"

namespace sublet {

inline constexpr std::size_t kExclusions = 8;  // Of the enum Exclusion.

// "holds 4096 of 5120 tokens; the least cost, 130 ms; next best chat/2, 310 ms"
std::string ReasonOf(const Decision& decision, const PolicyChoice& choice, const RouterCore& core);

// By cost, then by name.
std::vector<CandidateCost> ExplainCosts(const FleetView& fleet, const PolicyQuery& query,
                                        const RouterCore& core);

tl::unexpected<Error> NoSuchModel(std::string_view model, const RouterCore& core);

// None of those that serve the model can have it: kConflict where one is only full, kNotFound where
// all are other tenants', else kUnavailable. `down`: one of those that are, as an example, or null.
tl::unexpected<Error> NobodyIsLeft(const RouteQuery& query,
                                   const std::array<int, kExclusions>& exclusions,
                                   const ReplicaRecord* down, const RouterCore& core);

}  // namespace sublet
