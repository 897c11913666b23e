// replay/policy_run.h
//
// Within a replay: one policy's run, an event loop in virtual time.
//
// Four things happen: a request arrives, an engine's step ends, the router hears of what a step
// did to an engine's cache, a waiting request's patience ends. What happens at one moment happens
// in the order of HappeningKind, then of the numbers of requests and engines.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "engine/shared_gpu.h"
#include "kvcache/fleet_cache.h"
#include "replay/outcome_books.h"
#include "replay/replay.h"
#include "replay/trace.h"
#include "route/admission_queue.h"
#include "route/router.h"

namespace sublet {

class PolicyRun {
 public:
  // `trace` and `options` must outlive the run.
  static Result<std::unique_ptr<PolicyRun>> Make(const Trace& trace, const ReplayOptions& options,
                                                 std::string_view policy);

  PolicyOutcome Run(const ReplayProgress& progress);

 private:
  enum class HappeningKind { kStepEnd, kEventsHeard, kArrival, kPatienceEnds };
  struct Happening {
    std::int64_t at_ns = 0;
    HappeningKind kind = HappeningKind::kStepEnd;
    std::uint32_t which = 0;  // A seat, or a request.

    // For a queue whose top is the greatest.
    friend bool operator<(const Happening& a, const Happening& b) {
      if (a.at_ns != b.at_ns) return a.at_ns > b.at_ns;
      if (a.kind != b.kind) return a.kind > b.kind;
      return a.which > b.which;
    }
  };

  // A request at an engine.
  struct InFlight {
    RequestIndex index = 0;
    std::optional<Lease> lease;
    std::int64_t first_ns = 0;
    std::uint32_t cached_tokens = 0;
    std::uint32_t produced = 0;
    int untold = 0;  // Tokens that the router hasn't been told of.
  };

  // A replica: its engine, and its name in the router.
  struct Seat {
    std::unique_ptr<Engine> engine;
    ReplicaSlot slot = 0;
    std::vector<std::uint32_t> neighbours;  // Seats on the same GPU, this one too.
    std::int64_t expected_ns = -1;          // The step end that is in `happenings_`.
    std::unordered_map<EngineRequestId, InFlight> in_flight;
  };

  struct Heard {
    ReplicaSlot slot = 0;
    KvEventBatch batch;
  };

  PolicyRun(const Trace& trace, const ReplayOptions& options, std::unique_ptr<FleetCache> caches,
            std::unique_ptr<Router> router);

  Status Furnish();  // The fleet, in router and engines.
  void PlanArrivals();

  void OnStepEnd(std::uint32_t seat, std::int64_t now_ns);
  void OnToken(Seat& seat, const EngineStep::Token& token, std::int64_t now_ns);
  void OnEventsHeard(std::int64_t now_ns);
  void OnArrival(RequestIndex index, std::int64_t now_ns);
  void OnPatienceEnds(std::int64_t now_ns);

  // Whether it is on its way or turned away; false where all are full.
  bool TryToPlace(RequestIndex index, std::int64_t now_ns);
  void Place(RequestIndex index, Lease lease, std::int64_t now_ns);
  void LetWait(RequestIndex index, std::int64_t now_ns);
  void AdmitWaiting(std::int64_t now_ns);
  void TurnAway(RequestIndex index);
  void OnDone(InFlight done, std::int64_t now_ns);
  void ExpectStepEnds(const Seat& seat);

  // The prompt of request `index`, in `prefix_`.
  void WritePrompt(RequestIndex index);

  const Trace& trace_;
  const ReplayOptions& options_;
  std::unique_ptr<FleetCache> caches_;
  std::unique_ptr<Router> router_;
  AdmissionQueue waiting_;
  OutcomeBooks books_;
  std::vector<std::shared_ptr<SharedGpu>> gpus_;
  std::vector<Seat> seats_;
  std::vector<std::uint32_t> seat_of_slot_;
  std::priority_queue<Happening> happenings_;
  std::deque<Heard> unheard_;  // By time: the delay is the same for all.
  std::vector<std::int64_t> arrived_ns_;
  std::unordered_map<TicketId, RequestIndex> tickets_;
  // Of each request: the first that follows it, and the next that follows the same.
  std::vector<std::optional<RequestIndex>> follower_;
  std::vector<std::optional<RequestIndex>> sibling_;
  // What was answered to requests whose answer is in another's prompt.
  std::vector<bool> answer_read_;
  std::unordered_map<RequestIndex, std::vector<TokenId>> answers_;
  RequestPrefix prefix_;  // Of the request that is looked at.
  EngineStep step_;       // Its memory is used again.
  std::int64_t decisions_ = 0;
  std::int64_t deciding_ns_ = 0;
};

}  // namespace sublet
