#include "route/admission_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <list>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "base/check.h"

namespace sublet {
namespace {

constexpr int kClasses = 3;
// Above it a tenant's turns are so long that the others' come too seldom; below its inverse a
// single long prompt would wait for 10^8 rounds.
constexpr double kWeightMax = 1000;
constexpr int kRetryAfterSecondsMax = 60;
// The pace at which requests leave: the mean of some twenty.
constexpr double kPaceFading = 1.0 / 16;

struct TenantTurns;

struct Ticket {
  TicketId id = 0;
  std::string tenant;
  double tokens = 1;
  int priority = 0;  // Its class now.
  std::int64_t deadline_ns = 0;
  std::int64_t entered_ns = 0;  // Its class.
  TenantTurns* turns = nullptr;
  std::list<Ticket*>::iterator in_turns;  // TenantTurns::tickets
  std::list<Ticket*>::iterator in_class;  // TurnRing::by_age
};

// One tenant's requests of one class.
struct TenantTurns {
  std::list<Ticket*> tickets;  // First come, first served.
  double quantum = 0;
  std::uint64_t seat = 0;  // Its place in the round.
  // Its deficit in round r is credit + r * quantum.
  double credit = 0;
  // When its first request's turn comes.
  std::int64_t round = 0;
};

// A class: deficit round robin between its tenants.
class TurnRing {
 public:
  void Add(Ticket& ticket, double weight) {
    const auto [at, is_new] = tenants_.try_emplace(ticket.tenant);
    TenantTurns& turns = at->second;
    if (is_new) {
      turns.quantum = weight * AdmissionQueue::kQuantumTokens;
      turns.seat = ++seats_;
      // Its first quantum comes in the next round, in the last seat: behind all that wait already,
      // also where it had a turn in this round, and has emptied its queue and filled it again.
      turns.credit = -static_cast<double>(round_) * turns.quantum;
    }
    ticket.turns = &turns;
    ticket.in_turns = turns.tickets.insert(turns.tickets.end(), &ticket);
    ticket.in_class = by_age_.insert(by_age_.end(), &ticket);
    if (is_new) Seat(turns);
  }

  void Take(Ticket& ticket, bool charge) {
    TenantTurns& turns = *ticket.turns;
    const bool was_first = turns.tickets.front() == &ticket;
    const bool in_turn = was_first && Next() == &ticket;
    by_age_.erase(ticket.in_class);
    if (charge) {
      if (in_turn) round_ = turns.round;
      turns.credit -= ticket.tokens;
    }
    Unseat(turns);
    turns.tickets.erase(ticket.in_turns);
    if (turns.tickets.empty()) {
      tenants_.erase(ticket.tenant);  // Who has nothing to do saves nothing up.
    } else {
      Seat(turns);
    }
  }

  Ticket* Next() const {
    return order_.empty() ? nullptr : std::get<2>(*order_.begin())->tickets.front();
  }
  Ticket* Oldest() const { return by_age_.empty() ? nullptr : by_age_.front(); }
  std::size_t size() const { return by_age_.size(); }

 private:
  void Seat(TenantTurns& turns) {
    const double rounds = std::ceil((turns.tickets.front()->tokens - turns.credit) / turns.quantum);
    turns.round = std::max(round_, static_cast<std::int64_t>(rounds));
    order_.emplace(turns.round, turns.seat, &turns);
  }
  void Unseat(TenantTurns& turns) { order_.erase({turns.round, turns.seat, &turns}); }

  std::int64_t round_ = 0;  // Of the last turn.
  std::uint64_t seats_ = 0;
  std::unordered_map<std::string, TenantTurns> tenants_;  // Which have something to do.
  // Round, seat. The pointer never decides: no two have one seat.
  std::set<std::tuple<std::int64_t, std::uint64_t, TenantTurns*>> order_;
  std::list<Ticket*> by_age_;  // In this class; the oldest first.
};

}  // namespace

class AdmissionQueue::Impl {
 public:
  explicit Impl(const AdmissionOptions& options) : options_(options) {}

  Result<TicketId> Enter(const AdmissionRequest& request, std::int64_t now_ns) {
    Age(now_ns);
    if (tickets_.size() >= options_.waiting_max) {
      return Refuse(fmt::format("{} requests wait already", tickets_.size()));
    }
    const auto of_tenant = of_tenants_.find(request.tenant);
    const std::size_t waiting = of_tenant == of_tenants_.end() ? 0 : of_tenant->second;
    if (waiting >= options_.waiting_max_a_tenant) {
      return Refuse(fmt::format("{} requests of this tenant wait already", waiting));
    }
    ++of_tenants_[request.tenant];
    const TicketId id = ++last_id_;
    Ticket& ticket = tickets_[id];
    const auto wait_ns = static_cast<std::int64_t>(options_.wait_s_max * 1e9);
    ticket.id = id;
    ticket.tenant = request.tenant;
    ticket.tokens = std::max(1u, request.tokens);
    ticket.priority = std::clamp(static_cast<int>(request.priority), 0, kClasses - 1);
    ticket.entered_ns = now_ns;
    ticket.deadline_ns = std::min(request.deadline_ns.value_or(now_ns + wait_ns), now_ns + wait_ns);
    deadlines_.emplace(ticket.deadline_ns, id);
    rings_[ticket.priority].Add(ticket, WeightOf(ticket.tenant));
    return id;
  }

  std::optional<TicketId> Next(std::int64_t now_ns) {
    Age(now_ns);
    for (const TurnRing& ring : rings_) {
      if (const Ticket* ticket = ring.Next()) return ticket->id;
    }
    return std::nullopt;
  }

  void Remove(TicketId id, bool admitted) {
    const auto found = tickets_.find(id);
    if (found == tickets_.end()) return;
    Ticket& ticket = found->second;
    if (admitted) NoteDeparture();
    rings_[ticket.priority].Take(ticket, admitted);
    deadlines_.erase({ticket.deadline_ns, id});
    const auto of_tenant = of_tenants_.find(ticket.tenant);
    if (--of_tenant->second == 0) of_tenants_.erase(of_tenant);
    tickets_.erase(found);
  }

  std::vector<TicketId> Expire(std::int64_t now_ns) {
    Age(now_ns);
    std::vector<TicketId> late;
    while (!deadlines_.empty() && deadlines_.begin()->first <= now_ns) {
      late.push_back(deadlines_.begin()->second);
      Remove(late.back(), false);
    }
    return late;
  }

  std::optional<std::int64_t> NextDeadline() const {
    if (deadlines_.empty()) return std::nullopt;
    return deadlines_.begin()->first;
  }

  std::size_t waiting() const { return tickets_.size(); }
  std::size_t WaitingOf(PriorityClass priority) const {
    return rings_[static_cast<std::size_t>(priority)].size();
  }

  int RetryAfterSeconds() const {
    const double seconds = std::ceil(static_cast<double>(tickets_.size()) * pace_ns_ / 1e9);
    return static_cast<int>(std::clamp(seconds, 1.0, double{kRetryAfterSecondsMax}));
  }

 private:
  tl::unexpected<Error> Refuse(std::string message) const {
    return Fail(ErrorCode::kUnavailable, std::move(message),
                fmt::format("come again in {} s", RetryAfterSeconds()));
  }

  double WeightOf(const std::string& tenant) const {
    const auto found = options_.weights.find(tenant);
    return found == options_.weights.end() ? 1
                                           : std::clamp(found->second, 1 / kWeightMax, kWeightMax);
  }

  // Takes up a class whoever has been in his own for too long. In order of age, and each at most
  // twice in its life.
  void Age(std::int64_t now_ns) {
    now_ns_ = std::max(now_ns_, now_ns);
    const auto starvation_ns = static_cast<std::int64_t>(options_.starvation_s * 1e9);
    for (int priority = 1; priority < kClasses; ++priority) {
      while (Ticket* ticket = rings_[priority].Oldest()) {
        if (now_ns_ - ticket->entered_ns < starvation_ns) break;
        rings_[priority].Take(*ticket, false);
        ticket->priority = priority - 1;
        ticket->entered_ns = now_ns_;
        rings_[priority - 1].Add(*ticket, WeightOf(ticket->tenant));
      }
    }
  }

  void NoteDeparture() {
    if (departed_ns_ >= 0) {
      const auto gap_ns = static_cast<double>(now_ns_ - departed_ns_);
      pace_ns_ += kPaceFading * (gap_ns - pace_ns_);
    }
    departed_ns_ = now_ns_;
  }

  AdmissionOptions options_;
  std::array<TurnRing, kClasses> rings_;  // The highest class first.
  std::unordered_map<TicketId, Ticket> tickets_;
  std::unordered_map<std::string, std::size_t> of_tenants_;
  std::set<std::pair<std::int64_t, TicketId>> deadlines_;
  TicketId last_id_ = 0;
  std::int64_t now_ns_ = std::numeric_limits<std::int64_t>::min();
  std::int64_t departed_ns_ = -1;
  double pace_ns_ = 50e6;  // Between two that leave; twenty a second, until it is seen.
};

AdmissionQueue::AdmissionQueue(const AdmissionOptions& options)
    : impl_(std::make_unique<Impl>(options)) {}
AdmissionQueue::~AdmissionQueue() = default;

Result<TicketId> AdmissionQueue::Enter(const AdmissionRequest& request, std::int64_t now_ns) {
  return impl_->Enter(request, now_ns);
}
std::optional<TicketId> AdmissionQueue::Next(std::int64_t now_ns) {
  return impl_->Next(now_ns);
}
void AdmissionQueue::Leave(TicketId id) {
  impl_->Remove(id, true);
}
void AdmissionQueue::Abandon(TicketId id) {
  impl_->Remove(id, false);
}
std::vector<TicketId> AdmissionQueue::Expire(std::int64_t now_ns) {
  return impl_->Expire(now_ns);
}
std::optional<std::int64_t> AdmissionQueue::NextDeadline() const {
  return impl_->NextDeadline();
}
std::size_t AdmissionQueue::waiting() const {
  return impl_->waiting();
}
std::size_t AdmissionQueue::WaitingOf(PriorityClass priority) const {
  return impl_->WaitingOf(priority);
}
int AdmissionQueue::RetryAfterSeconds() const {
  return impl_->RetryAfterSeconds();
}

}  // namespace sublet
