// route/lease_state.h
//
// Inside the router: what a lease knows of its request.
//
// Thread safety: the members are the lease's; what they point to is under the router's lock.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "route/router_core.h"

namespace sublet {

struct LeaseState {
  void OnFirstToken(std::int64_t now_ns);
  void OnTokens(int count, std::int64_t now_ns);
  void Finish(const sublet::Finish& finish, std::int64_t now_ns);
  void Drop();
  // REQUIRES: the router's lock is held, here and below.
  void Note();
  void ForgetNote();
  void TellCache(const sublet::Finish& finish, std::int64_t now_ns);
  void TellBreaker(Outcome outcome, std::int64_t now_ns);

  std::shared_ptr<RouterCore> core;
  std::shared_ptr<ReplicaRecord> record;  // Before `entry`, which is in its book.
  LoadEntry entry;
  Decision decision;
  std::string url;
  std::optional<RequestPrefix> to_note;  // Then it is one of core->to_note.
  std::optional<PredictionId> prediction;
  std::uint32_t breaker_epoch = 0;
  std::int64_t sent_ns = 0;
  bool first_seen = false;
  bool finished = false;

  // Since the last look at what is decoded.
  int tokens = 0;
  std::int64_t looked_ns = 0;
  std::int64_t looked_sent = 0;  // LoadBook::sent() then.
  bool looked_clean = false;     // Nothing was being prefilled then.
};

}  // namespace sublet
