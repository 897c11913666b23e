// plan/latency.h
//
// What a neighbour costs: slowdown by co-tenants, and the latency that follows from it.
//
// A replica serves one request after the other; a request's latency is the wait in the replica's
// own queue plus its service, stretched by neighbours that use the same SMs or memory bandwidth.
// docs/operating/latency-model.md derives everything here and compares it with measurements.
//
//   Slowdown slowdown = SlowdownBy({.others_load = 0.3, .own_load = 0.1, .slots = 4});
//   Latency latency = PredictLatency({.rate_per_s = 5, .service_ms = 20}, slowdown);
//   latency.p99_ms
//
// The model in three sentences. Neighbours share the partition like an M/M/k processor-sharing
// queue: `slots` requests run at once at full speed, more share evenly (such a queue's occupancy
// depends on the service times by their mean alone: Kelly, "Reversibility and Stochastic Networks",
// 1979). A request is charged for the number of neighbours that it finds, as if they stayed until
// its end: of all requests that is the worst for a short one, and an upper bound on the variance
// for the rest (Coffman, Muntz and Trotter 1970); its median is no less than the mean. The wait in
// the own queue follows Kingman's formula with an exponential tail.
//
// Pure functions of their arguments. Thread safety: no shared state but constants.
#pragma once

namespace sublet {

// More load than this and a queue's length is noise: no prediction is made above it, and no plan
// needs it. The same for the neighbours' load on the slots.
inline constexpr double kUtilisationMax = 0.9;

// Loads are rounded up to this grid, so that a limit found by search is the limit when checked.
inline constexpr int kLoadGrid = 512;

// The largest number of slots told apart: an SM cap is a multiple of 5 %.
inline constexpr int kSlotsMax = 20;

// The neighbours of a replica in its partition.
struct Neighbours {
  // Sum over the others: part of the time busy x part of the partition used.
  double others_load = 0;
  double own_load = 0;  // The replica's own: it keeps the others there for longer.
  int slots = 1;        // How many of the largest fit beside each other; 1..kSlotsMax.
};

// How much longer a service takes; 1: not at all. Infinite where there are neighbours and all loads
// together exceed kUtilisationMax. No part of it shrinks when the load grows or the slots get
// fewer, and so no latency does: a limit on the load can be found by bisection.
struct Slowdown {
  double mean = 1;
  double p50 = 1;
  double p99 = 1;
  // What the neighbours add to the variance of the service time, over mean x (service alone)^2.
  double jitter = 0;
};

Slowdown SlowdownBy(const Neighbours& neighbours);

// One replica's stream of requests.
struct RequestStream {
  double rate_per_s = 0;
  double service_ms = 0;           // Alone in its share.
  double service_variability = 0;  // Coefficient of variation.
  double burstiness = 1;           // Squared coefficient of variation of the arrivals.
};

struct Latency {
  bool stable = false;     // False: utilisation above kUtilisationMax; the rest is infinite then.
  double utilisation = 0;  // Of the replica itself.
  double p50_ms = 0;
  double p99_ms = 0;
};

Latency PredictLatency(const RequestStream& stream, const Slowdown& slowdown);

}  // namespace sublet
