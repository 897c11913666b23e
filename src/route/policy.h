// route/policy.h
//
// The ways to choose a replica, by name.
//
//   ASSIGN_OR_RETURN(const Policy policy, FindPolicy("cost"));
//   const PolicyChoice choice = policy.choose(fleet, query);
//   fleet.replicas[choice.index]
//
// A policy is a pure function of a snapshot and a query (route/snapshot.h), and has a file of its
// own. It keeps nothing: what looks like state, such as whose turn it is, is in the query.
//
// Where several replicas are equally good, the one with the highest rendezvous hash gets the
// request (Thaler and Ravishankar 1998): of what the prompt begins with, so that requests which can
// share a prefix meet, or else of the request's number, so that those which can't are spread. The
// first replica of a list has no advantage, and all routers of a fleet decide alike.
//
// docs/operating/routing-policies.md explains each policy and says when it is the right one.
//
// Thread safety: pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "route/snapshot.h"

namespace sublet {

struct PolicyChoice {
  std::size_t index = 0;  // In FleetView::replicas.
  // Why, in a few words that go on from "holds 512 of 900 tokens; ".
  std::string_view rule;
  // Costs in ms, where the policy has them: of the chosen one, and of the next best.
  std::optional<double> cost_ms = {};
  std::optional<std::size_t> next_best = {};
  std::optional<double> next_best_ms = {};
};

struct Policy {
  std::string_view name;
  std::string_view summary;  // One line, for --help.
  PolicyChoice (*choose)(const FleetView& fleet, const PolicyQuery& query) = nullptr;
};

// Fails with kUsage, and names those that exist.
Result<Policy> FindPolicy(std::string_view name);
std::span<const Policy> Policies();  // The default first.
std::vector<std::string> PolicyNames();

// REQUIRES, of all: fleet.replicas isn't empty.
PolicyChoice ChooseByCost(const FleetView& fleet, const PolicyQuery& query);
PolicyChoice ChooseCacheAware(const FleetView& fleet, const PolicyQuery& query);
PolicyChoice ChooseConsistentHash(const FleetView& fleet, const PolicyQuery& query);
PolicyChoice ChooseLeastLoad(const FleetView& fleet, const PolicyQuery& query);
PolicyChoice ChoosePowerOfTwo(const FleetView& fleet, const PolicyQuery& query);
PolicyChoice ChooseRoundRobin(const FleetView& fleet, const PolicyQuery& query);
PolicyChoice ChooseBySession(const FleetView& fleet, const PolicyQuery& query);

}  // namespace sublet
