#include "proxy/admission_gate.h"

namespace sublet::internal {

bool AdmissionGate::Waits(std::string_view model) const {
  if (waiting() == 0) return false;
  const std::lock_guard lock(mutex_);
  return lines_.find(model) != lines_.end();
}

Status AdmissionGate::Enter(const std::string& model, const AdmissionRequest& request,
                            std::shared_ptr<AdmissionWaiter> waiter, std::int64_t now_ns) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<Line>& line = lines_[model];
  if (!line) line = std::make_unique<Line>(options_);
  const Result<TicketId> ticket = line->queue.Enter(request, now_ns);
  if (!ticket) {
    if (line->waiters.empty()) lines_.erase(model);
    return tl::unexpected<Error>(ticket.error());
  }
  waiter->model_ = model;
  waiter->ticket_ = *ticket;
  line->waiters.emplace(*ticket, std::move(waiter));
  ++waiting_;
  Call(*line, now_ns);
  return {};
}

void AdmissionGate::Leave(AdmissionWaiter& waiter, std::int64_t now_ns) {
  const std::lock_guard lock(mutex_);
  const auto at = lines_.find(waiter.model_);
  if (at == lines_.end() || at->second->waiters.erase(waiter.ticket_) == 0) return;
  --waiting_;
  at->second->queue.Leave(waiter.ticket_);
  if (at->second->waiters.empty()) {
    lines_.erase(at);
  } else {
    Call(*at->second, now_ns);
  }
}

void AdmissionGate::Freed(std::int64_t now_ns) {
  if (waiting() == 0) return;
  const std::lock_guard lock(mutex_);
  for (const auto& [model, line] : lines_) Call(*line, now_ns);
}

void AdmissionGate::Sweep(std::int64_t now_ns) {
  if (waiting() == 0) return;
  const std::lock_guard lock(mutex_);
  for (auto at = lines_.begin(); at != lines_.end();) {
    Expire(*at->second, now_ns);
    if (at->second->waiters.empty()) {
      at = lines_.erase(at);
    } else {
      Call(*at->second, now_ns);
      ++at;
    }
  }
}

// Turns aren't taken back: one who is called twice before he looks tries once, after both.
void AdmissionGate::Call(Line& line, std::int64_t now_ns) {
  const std::optional<TicketId> next = line.queue.Next(now_ns);
  if (!next) return;
  const auto at = line.waiters.find(*next);
  if (at == line.waiters.end()) return;
  at->second->turn_ = true;
  at->second->wake_();
}

void AdmissionGate::Expire(Line& line, std::int64_t now_ns) {
  for (const TicketId id : line.queue.Expire(now_ns)) {
    const auto at = line.waiters.find(id);
    if (at == line.waiters.end()) continue;
    at->second->late_ = true;
    at->second->wake_();
    line.waiters.erase(at);
    --waiting_;
  }
}

}  // namespace sublet::internal
