// sim/engine/shared_gpu.h
//
// A GPU on which several engines run at a time, each with some percent of its SMs, as under MPS.
//
//   auto gpu = std::make_shared<SharedGpu>();
//   Engine chat({.model = "chat", .share = {.sm_percent = 60}}, gpu);
//   Engine code({.model = "code", .share = {.sm_percent = 40}}, gpu);
//
// A step of an engine has work W, the time that it takes alone on its share, of which a part p is
// bound by computing (prefill) and the rest by memory (decode, reading the weights). While it runs
// it demands of the GPU
//
//   computing   c = kComputeAlone · sm_percent/100 · p
//   bandwidth   b = kBandwidthAlone · bandwidth_percent/100 · (1 - p)
//
// and, with C and B the sums over all steps that run at the time, it advances at the speed
//
//   1 / (p · max(1, C) + (1 - p) · max(1, B))
//
// So shares whose caps sum to 100 % don't slow each other's prefill, uncapped ones share what there
// is, and decode is slowed by others' decode, whatever the caps. Demands change only when a step
// begins or ends, and then what is left of each running step is stretched anew: in virtual time
// this is exact.
//
// kComputeAlone and kBandwidthAlone are below 1 because a single process leaves gaps that others
// fill: on an H200, 2 and 4 processes under MPS whose kernels fill the GPU each ran 1.83 and 3.67
// times slower than alone where they computed, 1.80 and 3.63 times where they moved memory, and not
// at all where each was capped at 25 % of the SMs.
//
// Not modelled: the L2 cache, time-slicing between processes of different MPS servers, and that a
// step which is slowed draws less bandwidth than it would alone.
//
// Thread safety: one thread at a time, together with all its engines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace sublet {

struct EngineShare {
  std::optional<double> sm_percent = {};  // Absent: uncapped, it may use them all.
  double bandwidth_percent = 60;          // Of the GPU's, that its decode draws when alone.
};

class SharedGpu {
 public:
  using Tenant = std::size_t;

  // What follows is the engines' business.

  Tenant Enter(const EngineShare& share);
  void Leave(Tenant tenant);
  // A step of so many nanoseconds alone. REQUIRES: none of the tenant's runs. `now_ns` may lie
  // before clock_ns(), since who advances an engine in real time is always late; it then begins at
  // clock_ns().
  void Begin(Tenant tenant, double compute_ns, double memory_ns, std::int64_t now_ns);
  // When it will have ended, if nothing else begins or ends before; none: it has no step.
  std::optional<std::int64_t> EndOf(Tenant tenant) const;
  // REQUIRES: it has a step.
  void End(Tenant tenant, std::int64_t now_ns);

  // When something last began or ended.
  std::int64_t clock_ns() const { return clock_ns_; }

  static constexpr double kComputeAlone = 0.92;
  static constexpr double kBandwidthAlone = 0.90;

 private:
  struct Seat {
    bool taken = false;
    bool busy = false;
    double sm = 1;
    double bandwidth = 1;
    double compute_part = 0;
    double left_ns = 0;  // Of the work, as if alone, at clock_ns_.
    double stretch = 1;
  };

  void MoveTo(std::int64_t now_ns);
  void Restretch();

  std::vector<Seat> seats_;
  std::int64_t clock_ns_ = 0;
};

}  // namespace sublet
