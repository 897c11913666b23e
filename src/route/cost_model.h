// route/cost_model.h
//
// What a request would cost on a replica, in milliseconds, term by term: until its own first token,
// and what others lose by it.
//
//   const CostContext context = CostContextOf(fleet);
//   const CostTerms terms = CostOf(fleet.replicas[r], context, query);
//   terms.Total()
//
//   queue      what was sent there before and isn't prefilled yet, at the rate of its share
//   prefill    what of the prompt the replica must compute
//   later      what the work of computing it costs those who come later, and what follows it there
//   pressure   how little room its cache has left for requests in flight
//   co-tenant  how much slower that is beside the others on its GPU, and how much slower they are
//   decode     the steps of the sequences that decode there, between which it is prefilled
//
// Later. Queue and prefill alone are what one request should wish for, and not what a fleet should
// want: a prompt that is computed anew rather than waited for takes time from everybody who comes
// behind. In a queue in which L wait on average, one more unit of work delays those who come by
// (1 + L)^2 units (M/M/1: the delay grows with 1 / (1 - load)^2, and 1 / (1 - load) is 1 + L). So
// computing counts A = (1 + L)^2 times, L being the mean of the last minute, and affinity gets
// stronger under load, where routers that give it up when load is uneven lose their caches. The
// work is counted at the mean rate of the fleet: what is lost is the fleet's. At each replica's own
// rate, fast replicas are overloaded. Only the request's own part counts so, not what many prompts
// begin with (route/distinction.h): a system prompt that is computed on one more replica isn't
// lost, the next request finds it there. Without that difference, the first replica to hold a long
// system prompt gets all conversations.
//
// And a request doesn't come alone. Whoever holds a conversation gets the rest of it, and a replica
// that looks idle between an agent's steps may have as many conversations as it can bear. Its queue
// of this moment doesn't show that; its utilisation does. With a part b of the last minute busy, a
// request is charged what kFollowTokens more tokens cost there: 1 / (1 - b)^2 times, in the manner
// of A, less the once that any replica costs. So conversations are spread while they begin.
//
// Pressure. A replica whose requests hold a part u of its cache soon has to let others wait or
// preempt: kRoomMs * u / (1 - u). Without it, requests that decode for long pile up on whichever
// replica prefills fastest. That blocks must be evicted for a prompt isn't priced: five ways to do
// it gained nothing that could be told from noise.
//
// Affinity gives way by itself: a replica that holds the prompt is worth waiting for as long as the
// wait costs less than computing it elsewhere. No threshold has to be set.
//
// Every term is monotone: more held never makes a replica dearer, more queued never cheaper (the
// tests hold them to that). What every replica holds is the same discount for all, and decides
// nothing. docs/operating/routing-policies.md has a worked example, and what was measured.
//
// Thread safety: pure.
#pragma once

#include <cstdint>

#include "route/snapshot.h"

namespace sublet {

// In a simulation of the Mooncake conversation trace (8 workers of 1,600 blocks, 8,000 tokens/s
// each), a least worth of 1, 2, 4 and 8 gave hit ratios of 20.2, 22.1, 22.8 and 23.4 % and p90 of
// 3.18, 3.20, 3.26 and 3.35 s. Near saturation (4,500 tokens/s), 1 throughout gave a p90 of 84 s
// and 4 throughout 20 s, where (1 + L)^2 gave 15 s with a most of 8, 16 or 32 alike.
inline constexpr double kWorkWorthMin = 8;
inline constexpr double kWorkWorthMax = 16;

// Some twenty steps of an agent, or turns of a chat. From 0 to twice this, the conversation trace
// has the same p90 within 2 %; agents with common instructions have one of 0.4 s, and of 33 s with
// 0 (docs/measured/routing-replay.md).
inline constexpr double kFollowTokens = 16'000;
// Beyond, the queue says it better; and on a fleet of unequal shares, small ones would be filled as
// full as large ones, where a prompt takes several times as long.
inline constexpr double kBusyMax = 0.5;

// With rates that were told 20 % wrong, shared-prefix traffic had a p90 of 13.5 s without the term,
// 1.2 s with half of this, and 1.0 s with it.
inline constexpr double kRoomMs = 500;
inline constexpr double kRoomUsedMax = 0.8;  // Where the term stays; it would go to infinity.

// vLLM's default of max_num_batched_tokens on large boards: what a step prefills at most.
inline constexpr double kStepTokens = 8192;

struct CostTerms {
  double queue_ms = 0;
  double prefill_ms = 0;
  double later_ms = 0;
  double pressure_ms = 0;
  double cotenant_ms = 0;
  double decode_ms = 0;
  double Total() const {
    return queue_ms + prefill_ms + later_ms + pressure_ms + cotenant_ms + decode_ms;
  }
};

// What is the same for all candidates of one decision.
struct CostContext {
  FleetView fleet;
  double work_worth = kWorkWorthMin;  // A.
  double mean_ms_a_token = 1;         // At the candidates' mean rate.
};
CostContext CostContextOf(const FleetView& fleet);

// Tokens a second that a decision counts on: of the share, and less while it starts slowly.
double RateOf(const ReplicaView& replica);
// Tokens of the prompt that the replica must compute, from 1 (an engine computes at least the last
// one) to all of them. Tokens in a slower tier count as a quarter: they must be loaded. What a
// STALE replica is said to hold counts half.
double UncachedTokens(const ReplicaView& replica, const PolicyQuery& query);

// Of the term `later`, in tokens. `uncached` is UncachedTokens().
double LaterTokens(const ReplicaView& replica, const CostContext& context, const PolicyQuery& query,
                   double uncached);

CostTerms CostOf(const ReplicaView& replica, const CostContext& context, const PolicyQuery& query);

}  // namespace sublet
