// route/snapshot.h
//
// What a decision sees: the replicas that may have the request, each as plain figures of one
// moment, and the request as far as routing cares.
//
//   const FleetView fleet{.replicas = views, .gpus = gpus};
//   const PolicyChoice choice = ChooseByCost(fleet, {.prompt_tokens = 5120, .ordinal = 17});
//
// Whoever makes a snapshot leaves out what can't be chosen: other models, other tenants, what is
// down, full, draining or was tried. So a policy never has to ask, and whatever it returns is
// eligible.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstdint>
#include <span>

#include "kvcache/fleet_cache.h"
#include "route/share_model.h"

namespace sublet {

struct ReplicaView {
  ReplicaSlot slot = 0;
  // Of its name: the same in every router and after every restart.
  std::uint64_t identity = 0;

  // Load, ours and others' (route/load_book.h).
  double in_flight = 0;      // Requests.
  double queued_tokens = 0;  // Still to prefill.
  double decoding = 0;       // Sequences.
  double busy = 0;           // Part of the last minute in which something was to be prefilled.

  // Speed of its share, alone on the GPU (route/rate_learner.h).
  double prefill_tokens_per_second = 8000;
  double decode_step_ms = 0;  // Of what decodes there; 0: nothing does.
  double slow_start = 1;      // Above 0, to 1: the part of its due that it gets.

  // Cache (kvcache/fleet_cache.h).
  std::uint32_t cached_tokens = 0;     // Of this prompt, on the GPU.
  std::uint32_t offloaded_tokens = 0;  // And besides in slower tiers.
  CacheKnowledge knowledge = CacheKnowledge::kApprox;
  double tokens_in_use = 0;  // Held by requests in flight, which can't be evicted.
  double tokens_capacity = 1e18;

  // Its GPU in FleetView::gpus and its place there; -1: nobody else is on it.
  int gpu = -1;
  std::uint32_t tenant = 0;
};

struct FleetView {
  std::span<const ReplicaView> replicas;  // By ascending slot. Never empty.
  std::span<const CoTenancy> gpus;
  // Requests that wait for their first token, of a replica: the mean of the last minute.
  double mean_prefills = 0;
};

struct PolicyQuery {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t tokens_everywhere = 0;  // Held by every replica: they say nothing.
  // Its beginning, as far as many prompts have it (route/distinction.h).
  std::uint32_t common_tokens = 0;
  std::uint64_t ordinal = 0;  // Counts the requests for the same model.
  std::uint64_t random = 0;   // A word of it, for those who draw.
  // Names what the prompt begins with, as far as that tells it from most others
  // (route/distinction.h); 0: nothing does.
  std::uint64_t affinity = 0;
  std::uint64_t session = 0;  // 0: none was named.
};

}  // namespace sublet
