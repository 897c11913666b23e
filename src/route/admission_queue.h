// route/admission_queue.h
//
// Who goes next when all replicas are full: bounded, by priority, fair between tenants, and never
// past a deadline.
//
//   AdmissionQueue queue({.waiting_max = 1024});
//   ASSIGN_OR_RETURN(const TicketId id, queue.Enter({.tenant = "shop", .tokens = 900}, now_ns));
//   while (const auto next = queue.Next(now_ns)) { ... let *next try to choose a replica ... }
//   for (const TicketId late : queue.Expire(now_ns)) { ... 503 ... }
//   queue.Leave(id);     // Admitted.
//   queue.Abandon(id);   // Its client went away.
//
// Classes are strict: a waiting request of a lower class goes only when none of a higher one waits,
// but one that has waited for `starvation_s` is taken up a class, and after as long again another.
// Within a class, tenants share by deficit round robin over tokens, in proportion to their weights,
// so that long prompts of one don't cost another his turn: between two tenants that both wait all
// the time, what they got for their weights differs by no more than a quantum and their longest
// prompts. Within a tenant, first come, first served.
//
// How it is made: a tenant's turn is the round in which its deficit will have grown to its first
// request's tokens. That round is computed when the request becomes the first, and tenants are kept
// in its order; no round is ever walked through. So an operation takes log(tenants) + log(waiting),
// whatever the quantum is, and the quantum can be small, which makes the sharing fine.
//
// Source: Shreedhar and Varghese, "Efficient Fair Queuing using Deficit Round Robin", 1996.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace sublet {

enum class PriorityClass { kInteractive, kNormal, kBatch };

struct AdmissionOptions {
  std::size_t waiting_max = 1024;  // Beyond it: kUnavailable, which is 429 to a client.
  std::size_t waiting_max_a_tenant = 512;
  double wait_s_max = 60;
  double starvation_s = 30;
  std::map<std::string, double> weights = {};  // Of tenants, above 0; 1 where none is given.
};

struct AdmissionRequest {
  std::string tenant;
  PriorityClass priority = PriorityClass::kNormal;
  std::uint32_t tokens = 1;  // Of its prompt: what it costs its tenant's deficit.
  std::optional<std::int64_t> deadline_ns = {};
};

using TicketId = std::uint64_t;

class AdmissionQueue {
 public:
  // A turn of a tenant of weight 1: the prompt of a short chat.
  static constexpr double kQuantumTokens = 512;

  explicit AdmissionQueue(const AdmissionOptions& options);
  ~AdmissionQueue();

  // Fails with kUnavailable beyond the bounds; the hint says after how long to come again.
  Result<TicketId> Enter(const AdmissionRequest& request, std::int64_t now_ns);
  // Whose turn it is; stays in the queue until Leave(). The same one until something changes.
  std::optional<TicketId> Next(std::int64_t now_ns);
  // It was admitted, and its tenant is charged for it; out of turn too, where the one whose turn it
  // is could find no replica. Does nothing where it isn't there.
  void Leave(TicketId id);
  // It goes without having been served, and nobody is charged.
  void Abandon(TicketId id);
  // Those whose deadline has passed, which have left by that; the earliest deadline first.
  std::vector<TicketId> Expire(std::int64_t now_ns);
  // When Expire() will next have something to say.
  std::optional<std::int64_t> NextDeadline() const;

  std::size_t waiting() const;
  std::size_t WaitingOf(PriorityClass priority) const;
  // For a 429's Retry-After: how long those that wait will take, at the pace of late; 1 to 60.
  int RetryAfterSeconds() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sublet
