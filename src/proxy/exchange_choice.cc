// Which replica, and the wait for one where all are full.

#include <fmt/format.h>

#include <boost/asio/post.hpp>

#include "base/clock.h"
#include "proxy/exchange.h"

namespace sublet::internal {

LoopTask<Exchange::Step> Exchange::Choose() {
  bool full = true;
  if (!loop_.shared().gate.Waits(prefix_.model)) {
    const Step step = ChooseNow(MonotonicNanoseconds(), full);
    if (!full) co_return step;
  }
  const Step step = co_await WaitForTurn();
  co_return step;
}

// `full`: there are replicas, and all have as many requests as they take.
Exchange::Step Exchange::ChooseNow(std::int64_t now_ns, bool& full) {
  full = false;
  const RouteQuery query{.prefix = &prefix_,
                         .tenant = tenant_,
                         .session = session_,
                         .tried = tried_,
                         .pinned = pinned_,
                         .explain = explain_};
  Result<Lease> lease = loop_.shared().hooks.router->Choose(query, now_ns);
  record_.decide_ns += MonotonicNanoseconds() - now_ns;
  if (lease) {
    lease_.emplace(std::move(*lease));
    lease_open_ = true;
    return Step::kOk;
  }
  const Error& error = lease.error();
  if (error.code == ErrorCode::kNotFound) {
    return RefuseWith(RequestOutcome::kNoModel, 404, "model_not_found", error.message);
  }
  full = error.code == ErrorCode::kConflict;
  refusal_.retry_after_s = 1;
  return RefuseWith(RequestOutcome::kUnavailable, 503, "no_replica_available", error.message);
}

LoopTask<Exchange::Step> Exchange::WaitForTurn() {
  AdmissionGate& gate = loop_.shared().gate;
  const std::int64_t begin_ns = MonotonicNanoseconds();
  const auto wake = [&io = loop_.io(), client = client_->shared_from_this()] {
    asio::post(io, [client] { client->Wake(); });
  };
  const auto waiter = std::make_shared<AdmissionWaiter>(wake);
  const AdmissionRequest request{
      .tenant = std::string(tenant_),
      .priority = record_.priority,
      .tokens = static_cast<std::uint32_t>(prefix_.PromptTokens() + prefix_.other_tokens),
      .deadline_ns = deadline_ns_};
  const Status entered = gate.Enter(prefix_.model, request, waiter, begin_ns);
  if (!entered) {
    refusal_.retry_after_s = 1;
    co_return RefuseWith(RequestOutcome::kRejected, 429, "queue_full", entered.error().message);
  }
  record_.queued = true;
  Step step = Step::kOk;
  bool full = true;
  while (full) {
    if (Gone()) {
      step = Step::kGone;
      break;
    }
    if (waiter->late()) {
      refusal_.retry_after_s = 1;
      step = RefuseWith(RequestOutcome::kRejected, 503, "waited_too_long",
                        "all replicas are full, and the time to wait for one is over");
      break;
    }
    if (waiter->TakeTurn()) {
      step = ChooseNow(MonotonicNanoseconds(), full);
    } else {
      co_await client_->Changed();
    }
  }
  const std::int64_t end_ns = MonotonicNanoseconds();
  gate.Leave(*waiter, end_ns);
  record_.waited_ns += end_ns - begin_ns;
  co_return step;
}

void Exchange::EndLease(Outcome outcome) {
  if (!lease_open_) return;
  lease_open_ = false;
  const std::int64_t now_ns = MonotonicNanoseconds();
  lease_->Finish({.outcome = outcome,
                  .prompt_tokens = record_.prompt_tokens,
                  .cached_tokens = record_.cached_tokens,
                  .output_tokens = record_.output_tokens},
                 now_ns);
  loop_.shared().gate.Freed(now_ns);
}

}  // namespace sublet::internal
