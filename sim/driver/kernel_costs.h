// sim/driver/kernel_costs.h
//
// How long a kernel takes on the simulated card, and what of the card it uses meanwhile.
//
// The simulation runs no kernel. It knows what the lab's own kernels (src/measure/kernels) do from
// their name, grid and arguments, and derives their cost from the data sheet of the board: SMs,
// memory bandwidth, tensor rate. What a data sheet doesn't say was fitted on one H200
// (kernel_costs.cc names each such constant). Any other kernel gets a default from its threads.
//
//   const KernelCost cost = CostOf({.name = "sublet_spin", .blocks = 16, .threads = 256,
//                                   .arguments = {0, 46000}}, card);
//   const CardWork work = WorkOf(cost, card, 132);     // work.full_ns: 92,930
//
// Thread safety: pure functions.
#pragma once

#include <string_view>
#include <vector>

#include "model/board.h"

namespace sublet::sim {

// A GPU, or a MIG instance of it, as far as the time of kernels depends on it.
struct CardFacts {
  int sm_count = 132;
  double bytes_per_ns = 4800;          // Memory bandwidth, data sheet.
  double tensor_flop_per_sm_ns = 7.5;  // Thousand; dense bf16, data sheet, of one SM.
};
// A board that the catalogue doesn't know is taken for SMs like those of an H200.
CardFacts FactsOf(const Board* board, int sm_count);

struct KernelLaunch {
  std::string_view name;
  unsigned long long blocks = 1;
  unsigned blocks_z = 1;
  unsigned threads = 1;  // Of a block.
  unsigned shared_bytes = 0;
  std::vector<unsigned long long> arguments;  // As LayoutOf() lists them.
};

// The sizes in bytes of a known kernel's arguments; empty for any other, whose arguments can't be
// read because nobody says where they end.
std::vector<int> LayoutOf(std::string_view kernel);

struct KernelCost {
  double blocks = 1;
  double block_ns = 0;     // Time of a block that has an SM for itself.
  double block_sm_ns = 0;  // Of that, the time in which nobody else could have used the SM.
  int blocks_per_sm = 1;   // That fit at once.
  double bytes = 0;        // To and from memory.
  double crowd = 0;        // See CardWork.
  bool illegal = false;    // It writes where it must not.
};

KernelCost CostOf(const KernelLaunch& launch, const CardFacts& card);

// What the scheduler of card_clock.h needs to know.
struct CardWork {
  double full_ns = 0;  // Time when nobody else runs.
  double sm_ns = 0;    // SM time it needs in all.
  double bytes = 0;
  // How much more SM time it needs, as a fraction, among very many clients that all spread over
  // all SMs (card_sharing.h).
  double crowd = 0;
};

// `sm_count` is what the client may use, at most the card's.
CardWork WorkOf(const KernelCost& cost, const CardFacts& card, int sm_count);

// The bandwidth that all clients together can have.
double ReachableBandwidth(const CardFacts& card);

// One after the other, as the kernels of a graph: as one piece of work with their average demand.
CardWork Sequence(const std::vector<CardWork>& works, double gap_ns);

}  // namespace sublet::sim
