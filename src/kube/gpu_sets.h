// kube/gpu_sets.h
//
// Which GPUs of a node work together best, by how they are linked.
//
//   const LinkScores scores = ScoresOf(inventory, {0, 1, 2, 3});
//   BestLinkedSet(scores, {}, 2)        // {0, 1}: places in `scores`
//
// A pair scores as in NVIDIA's device plugin: its nearest common point on PCI Express (another CPU
// 10, the same 20, host bridge 30, several switches 40, one 50, one board 60) and 100 for each
// NVLink. A set's score is the sum over its pairs. The best set is the one with
//
//   1. the highest score;
//   2. among those, the one that leaves most: the other GPUs, divided into sets of the same size
//      (and one of what is over), have the highest sum of scores;
//   3. among those, the one that leaves most links between all of the others;
//   4. among those, the one with the lowest places.
//
// NVIDIA's plugin looks for the division of all GPUs with the highest sum and takes its best set,
// which may be worse than the best there is. It walks through all divisions: 2.6 million for 4 of
// 16. Here every set is looked at once, and divisions share their parts.
//
// Thread safety: pure functions.
#pragma once

#include <vector>

#include "model/inventory.h"

namespace sublet {

// Up to so many GPUs the answer is exact; above, rule 2 is left out and the rest is a search with a
// bounded number of steps. No machine on the market has more in one operating system.
inline constexpr int kExactGpusMax = 16;

// Of pairs: symmetric, 0 on the diagonal. At most 10,000 each, so that no sum overflows.
using LinkScores = std::vector<std::vector<int>>;

// Of the GPUs with these NVML indices, in that order. 0 where the driver tells nothing.
LinkScores ScoresOf(const Inventory& inventory, const std::vector<int>& gpus);

// The places of the best `size` GPUs, ascending, all of `required` among them.
// REQUIRES: required.size() <= size <= scores.size(); each place in `required` once.
std::vector<int> BestLinkedSet(const LinkScores& scores, const std::vector<int>& required,
                               int size);

}  // namespace sublet
