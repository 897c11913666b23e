#include "replay/policy_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "base/check.h"

namespace sublet {
namespace {

constexpr std::string_view kReplayModel = "replayed";

// Replicas are added long before the first request, so that none starts slowly while figures are
// taken (route/slow_start.h).
constexpr std::int64_t kFirstArrivalNs = 3'600'000'000'000;

// A router is told of an answer's tokens in bunches; each costs a lock.
constexpr int kTokensATelling = 32;

EngineOptions EngineOptionsOf(const ReplayReplica& replica, const ReplayOptions& options) {
  return {.model = std::string(kReplayModel),
          .kv_blocks = replica.kv_blocks,
          .block_tokens = options.block_tokens,
          .prefill_tokens_per_second = replica.prefill_tokens_per_second,
          .step_overhead_ms = options.step_overhead_ms,
          .decode_ms_a_sequence = options.decode_ms_a_sequence,
          .sequences_max = options.in_flight_max,
          .kv_events = options.events,
          .share = {.sm_percent = replica.sm_percent}};
}

ReplicaSpec SpecOf(const ReplayReplica& replica, const ReplayOptions& options) {
  ReplicaSpec spec;
  spec.name = replica.name;
  spec.url = "http://" + replica.name;  // Nobody goes there.
  spec.models = {std::string(kReplayModel)};
  spec.share.gpu = replica.gpu;
  spec.share.sm_percent = replica.sm_percent;
  spec.share.prefill_tokens_per_second = replica.prefill_tokens_per_second;
  spec.share.decode_step_ms = options.step_overhead_ms + options.decode_ms_a_sequence;
  spec.share.kv_blocks = replica.kv_blocks;
  spec.share.kv_block_tokens = options.block_tokens;
  if (options.events) spec.kv_events.emplace().endpoint = "replay:" + replica.name;
  spec.in_flight_max = options.in_flight_max;
  return spec;
}

AdmissionOptions WaitingOptionsOf(const ReplayOptions& options) {
  AdmissionOptions waiting;
  waiting.waiting_max = options.waiting_max;
  waiting.waiting_max_a_tenant = options.waiting_max;  // Traces know no tenants.
  waiting.wait_s_max = options.wait_s_max;
  return waiting;
}

}  // namespace

Result<std::unique_ptr<PolicyRun>> PolicyRun::Make(const Trace& trace, const ReplayOptions& options,
                                                   std::string_view policy) {
  auto caches = std::make_unique<FleetCache>();
  ASSIGN_OR_RETURN(auto router,
                   Router::Make({.policy = std::string(policy), .seed = options.seed}, *caches));
  std::unique_ptr<PolicyRun> run(
      new PolicyRun(trace, options, std::move(caches), std::move(router)));
  RETURN_IF_ERROR(run->Furnish());
  run->PlanArrivals();
  return run;
}

PolicyRun::PolicyRun(const Trace& trace, const ReplayOptions& options,
                     std::unique_ptr<FleetCache> caches, std::unique_ptr<Router> router)
    : trace_(trace),
      options_(options),
      caches_(std::move(caches)),
      router_(std::move(router)),
      waiting_(WaitingOptionsOf(options)),
      books_(options.fleet, options.block_tokens, options.objective_ttft_ms),
      arrived_ns_(trace.requests.size(), 0),
      follower_(trace.requests.size()),
      sibling_(trace.requests.size()),
      answer_read_(trace.requests.size(), false) {
  prefix_.known = true;
  prefix_.model = kReplayModel;
}

Status PolicyRun::Furnish() {
  std::map<std::string, std::size_t> gpu_of;
  std::vector<std::vector<std::uint32_t>> seats_on;
  std::vector<std::size_t> gpu_of_seat;
  for (const ReplayReplica& replica : options_.fleet) {
    const auto [gpu, is_new] = gpu_of.try_emplace(replica.gpu, gpus_.size());
    if (is_new) {
      gpus_.push_back(std::make_shared<SharedGpu>());
      seats_on.emplace_back();
    }
    ASSIGN_OR_RETURN(const ReplicaSlot slot, router_->Add(SpecOf(replica, options_), 0));
    router_->OnHealth(slot, ReplicaHealth::kHealthy, "", 0);
    if (options_.events) caches_->SetKnowledge(slot, CacheKnowledge::kExact, "", false, 0);
    seat_of_slot_.resize(std::max<std::size_t>(seat_of_slot_.size(), slot + 1));
    seat_of_slot_[slot] = static_cast<std::uint32_t>(seats_.size());
    seats_on[gpu->second].push_back(static_cast<std::uint32_t>(seats_.size()));
    gpu_of_seat.push_back(gpu->second);
    Seat& seat = seats_.emplace_back();
    seat.engine = std::make_unique<Engine>(EngineOptionsOf(replica, options_), gpus_[gpu->second]);
    seat.slot = slot;
  }
  for (std::size_t i = 0; i < seats_.size(); ++i) seats_[i].neighbours = seats_on[gpu_of_seat[i]];
  return {};
}

void PolicyRun::PlanArrivals() {
  for (RequestIndex i = 0; i < trace_.requests.size(); ++i) {
    const TraceRequest& request = trace_.requests[i];
    for (const PromptPiece& piece : trace_.PiecesOf(request)) {
      if (const auto answered = AnswerOf(piece.content)) answer_read_[*answered] = true;
    }
    if (request.after) {
      sibling_[i] = std::exchange(follower_[*request.after], i);
      continue;
    }
    const double at_ns = static_cast<double>(request.at_ns) / options_.load;
    happenings_.push({kFirstArrivalNs + std::llround(at_ns), HappeningKind::kArrival, i});
  }
}

PolicyOutcome PolicyRun::Run(const ReplayProgress& progress) {
  const auto all = static_cast<std::int64_t>(trace_.requests.size());
  std::int64_t next_report = 0;
  while (!happenings_.empty()) {
    const Happening next = happenings_.top();
    happenings_.pop();
    switch (next.kind) {
      case HappeningKind::kStepEnd:
        OnStepEnd(next.which, next.at_ns);
        break;
      case HappeningKind::kEventsHeard:
        OnEventsHeard(next.at_ns);
        break;
      case HappeningKind::kArrival:
        OnArrival(next.which, next.at_ns);
        break;
      case HappeningKind::kPatienceEnds:
        OnPatienceEnds(next.at_ns);
        break;
    }
    if (progress && books_.through() >= next_report) {
      progress(static_cast<double>(books_.through()) / static_cast<double>(all));
      next_report = books_.through() + std::max<std::int64_t>(1, all / 200);
    }
  }
  // Nothing is lost: what came was served or turned away.
  CHECK(books_.through() == all);
  PolicyOutcome outcome = std::move(books_).Close();
  for (const Seat& seat : seats_) {
    CHECK(seat.in_flight.empty());
    outcome.preemptions += seat.engine->counters().preemptions;
  }
  if (deciding_ns_ > 0) {
    outcome.decisions_per_second =
        static_cast<double>(decisions_) / (static_cast<double>(deciding_ns_) / 1e9);
  }
  return outcome;
}

void PolicyRun::OnStepEnd(std::uint32_t which, std::int64_t now_ns) {
  Seat& seat = seats_[which];
  // A neighbour that began or ended a step meanwhile has moved this one's end.
  if (seat.engine->NextStepEnd() != now_ns) return;
  seat.engine->Advance(now_ns, step_);
  for (const EngineStep::Token& token : step_.tokens) OnToken(seat, token, now_ns);
  if (!step_.events.empty()) {
    const std::int64_t heard_ns = now_ns + std::llround(options_.event_delay_ms * 1e6);
    KvEventBatch batch;
    batch.time_s = static_cast<double>(now_ns) / 1e9;
    batch.events.swap(step_.events);
    unheard_.push_back({seat.slot, std::move(batch)});
    happenings_.push({heard_ns, HappeningKind::kEventsHeard, which});
  }
  ExpectStepEnds(seat);
  AdmitWaiting(now_ns);
}

void PolicyRun::OnToken(Seat& seat, const EngineStep::Token& token, std::int64_t now_ns) {
  const auto it = seat.in_flight.find(token.id);
  CHECK(it != seat.in_flight.end());
  InFlight& request = it->second;
  ++request.produced;
  if (answer_read_[request.index]) answers_[request.index].push_back(token.token);
  if (token.first) {
    request.first_ns = now_ns;
    const std::optional<EngineAdmission> admission = seat.engine->AdmissionOf(token.id);
    request.cached_tokens = admission ? admission->cached_tokens : 0;
    books_.OnAdmitted(static_cast<std::size_t>(&seat - seats_.data()),
                      trace_.requests[request.index].prompt_tokens, request.cached_tokens);
    request.lease->OnFirstToken(now_ns);
  } else if (++request.untold == kTokensATelling || token.last) {
    request.lease->OnTokens(std::exchange(request.untold, 0), now_ns);
  }
  if (!token.last) return;
  InFlight done = std::move(request);
  seat.in_flight.erase(it);
  OnDone(std::move(done), now_ns);
}

void PolicyRun::OnDone(InFlight done, std::int64_t now_ns) {
  const TraceRequest& request = trace_.requests[done.index];
  done.lease->Finish({.outcome = Outcome::kServed,
                      .prompt_tokens = request.prompt_tokens,
                      .cached_tokens = done.cached_tokens,
                      .output_tokens = done.produced},
                     now_ns);
  books_.OnServed({.arrived_ns = arrived_ns_[done.index],
                   .first_ns = done.first_ns,
                   .last_ns = now_ns,
                   .output_tokens = done.produced});
  for (auto next = follower_[done.index]; next; next = sibling_[*next]) {
    happenings_.push({now_ns + trace_.requests[*next].at_ns, HappeningKind::kArrival, *next});
  }
}

void PolicyRun::OnEventsHeard(std::int64_t now_ns) {
  caches_->Apply(unheard_.front().slot, unheard_.front().batch, now_ns);
  unheard_.pop_front();
}

void PolicyRun::OnArrival(RequestIndex index, std::int64_t now_ns) {
  books_.OnArrived(now_ns);
  arrived_ns_[index] = now_ns;
  // Whoever waits goes first.
  if (waiting_.waiting() > 0 || !TryToPlace(index, now_ns)) LetWait(index, now_ns);
}

bool PolicyRun::TryToPlace(RequestIndex index, std::int64_t now_ns) {
  WritePrompt(index);
  const std::int64_t before_ns = options_.wall_ns ? options_.wall_ns() : 0;
  Result<Lease> lease = router_->Choose({.prefix = &prefix_}, now_ns);
  if (lease) lease->OnSent();
  if (options_.wall_ns) deciding_ns_ += options_.wall_ns() - before_ns;
  ++decisions_;
  if (lease) {
    Place(index, std::move(*lease), now_ns);
    return true;
  }
  if (lease.error().code == ErrorCode::kConflict) return false;
  TurnAway(index);
  return true;
}

void PolicyRun::Place(RequestIndex index, Lease lease, std::int64_t now_ns) {
  Seat& seat = seats_[seat_of_slot_[lease.decision().slot]];
  const TraceRequest& request = trace_.requests[index];
  Result<EngineRequestId> id =
      seat.engine->Submit({.prompt = std::move(prefix_.token_ids),
                           .output_tokens = static_cast<int>(request.output_tokens)},
                          now_ns);
  if (!id) {
    // What can't ever fit that replica's cache, an engine refuses with a 400.
    lease.Finish({.outcome = Outcome::kClientError}, now_ns);
    TurnAway(index);
    return;
  }
  InFlight& placed = seat.in_flight[*id];
  placed.index = index;
  placed.lease = std::move(lease);
  ExpectStepEnds(seat);
}

void PolicyRun::LetWait(RequestIndex index, std::int64_t now_ns) {
  AdmissionRequest request;
  request.tokens = trace_.requests[index].prompt_tokens;
  const Result<TicketId> ticket = waiting_.Enter(request, now_ns);
  if (!ticket) return TurnAway(index);
  books_.OnQueued();
  tickets_[*ticket] = index;
  if (const auto at_ns = waiting_.NextDeadline()) {
    happenings_.push({*at_ns, HappeningKind::kPatienceEnds, 0});
  }
}

void PolicyRun::AdmitWaiting(std::int64_t now_ns) {
  while (waiting_.waiting() > 0) {
    const std::optional<TicketId> next = waiting_.Next(now_ns);
    if (!next || !TryToPlace(tickets_.at(*next), now_ns)) return;
    waiting_.Leave(*next);
    tickets_.erase(*next);
  }
}

void PolicyRun::OnPatienceEnds(std::int64_t now_ns) {
  for (const TicketId late : waiting_.Expire(now_ns)) {
    const auto it = tickets_.find(late);
    TurnAway(it->second);
    tickets_.erase(it);
  }
  if (const auto at_ns = waiting_.NextDeadline(); at_ns && *at_ns > now_ns) {
    happenings_.push({*at_ns, HappeningKind::kPatienceEnds, 0});
  }
}

void PolicyRun::TurnAway(RequestIndex index) {
  std::vector<RequestIndex> gone{index};
  while (!gone.empty()) {
    const RequestIndex next = gone.back();
    gone.pop_back();
    books_.OnRejected(1);
    for (auto later = follower_[next]; later; later = sibling_[*later]) gone.push_back(*later);
  }
}

void PolicyRun::ExpectStepEnds(const Seat& seat) {
  for (const std::uint32_t which : seat.neighbours) {
    Seat& neighbour = seats_[which];
    const std::optional<std::int64_t> end_ns = neighbour.engine->NextStepEnd();
    if (!end_ns || *end_ns == neighbour.expected_ns) continue;
    neighbour.expected_ns = *end_ns;
    happenings_.push({*end_ns, HappeningKind::kStepEnd, which});
  }
}

void PolicyRun::WritePrompt(RequestIndex index) {
  const TraceRequest& request = trace_.requests[index];
  prefix_.token_ids.clear();
  prefix_.token_ids.reserve(request.prompt_tokens);
  for (const PromptPiece& piece : trace_.PiecesOf(request)) {
    const std::optional<RequestIndex> answered = AnswerOf(piece.content);
    if (!answered) {
      AppendTokens(piece, prefix_.token_ids);
      continue;
    }
    const std::vector<TokenId>& answer = answers_.at(*answered);
    prefix_.token_ids.insert(prefix_.token_ids.end(), answer.begin(), answer.end());
  }
  prefix_.session = request.session ? fmt::format("session-{}", *request.session) : "";
}

}  // namespace sublet
