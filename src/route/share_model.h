// route/share_model.h
//
// How much the replicas on one GPU slow each other.
//
//   CoTenancy gpu;
//   gpu.Build(tenants);                       // Each with its cap, and the prefill it has to do.
//   const CoTenantDelay delay = gpu.DelayOf(2, 310.0);
//   delay.own_ms                              // How much later the 310 ms are done there,
//   delay.others_ms                           // and how much later the others are.
//
// The model. A replica that prefills asks for the SMs that its cap lets it have, one without a cap
// for all there are; one that decodes asks for memory bandwidth. Where those that prefill ask
// together for D times what the GPU has, with D above 1, each gets on D times slower; at or below
// 1, nobody notices the others. The same holds for bandwidth and those that decode. The two don't
// touch each other. This is the bound by capacity of plan/saturation.h.
//
// Replicas that prefill slow each other only while both are at it. As all are slowed alike, the one
// with the least left to do ends first: with x the work done so far, in ms of a replica alone,
//
//   D(x) = sum over those that have more than x to do,   time(w) = integral 0..w of max(1, D(x)) dx
//
// An added request is charged both ways: for its own time beyond what it would take alone, and for
// what each of the others is held up by it, from the moment at which its replica would have been
// done without it.
//
// What may surprise: nothing here is a guess about the future. Who arrives later isn't counted.
//
// Thread safety: a value; its owner's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sublet {

// A process alone leaves gaps that others fill. Measured on an H200: two and four processes under
// MPS that compute ran 1.83 and 3.67 times slower than alone, where they move memory 1.80 and 3.63
// times; with caps that add up to the GPU, not at all.
inline constexpr double kComputeAlone = 0.92;
// The same of bandwidth, times the 60 % of it that decoding draws of a board when alone: a step
// reads all weights once, between launches and small kernels that read little.
inline constexpr double kBandwidthAlone = 0.54;

struct TenantLoad {
  double sm_part = 1;     // 0 to 1: its cap; 1 where it has none.
  double prefill_ms = 0;  // Still to do, as long as it takes alone.
  int decoding = 0;       // Sequences.
};

// How much slower all are, who together ask for this many times the GPU.
inline double SlowdownAt(double demand) {
  return demand > 1 ? demand : 1;
}

struct CoTenantDelay {
  double own_ms = 0;
  double others_ms = 0;  // Summed over the others.
};

class CoTenancy {
 public:
  // In any order; a tenant is named by its place. Takes k log k for k of them.
  void Build(std::span<const TenantLoad> tenants);

  // What `added_ms` of prefill cost on that tenant, behind what it has to do already. Neither part
  // ever falls when `added_ms` grows, nor the first when anybody's load does. Takes as many steps
  // as tenants end while it is computed.
  CoTenantDelay DelayOf(std::size_t tenant, double added_ms) const;

  // How much slower a prefill and a step of decoding are there right now, beside the others;
  // `tenant` counts as busy with it.
  double PrefillSlowdown(std::size_t tenant) const;
  double DecodeSlowdown(std::size_t tenant) const;

  std::size_t size() const { return places_.size(); }

 private:
  // Between the ends of two tenants' work.
  struct Stretch {
    double from_ms = 0;  // Work of each that is still at it.
    double time_ms = 0;  // When that is reached.
    double demand = 0;   // From there on.
    int working = 0;     // Tenants, from there on.
  };
  struct Place {
    double demand = 1;  // While it prefills.
    bool decoding = false;
    std::size_t ends = 0;  // In stretches_: where its work is done.
  };

  std::vector<Stretch> stretches_;  // By from_ms; the first begins at 0.
  std::vector<Place> places_;
  std::vector<std::uint32_t> order_;  // Kept for its memory.
  int decoding_ = 0;                  // Tenants.
};

}  // namespace sublet
