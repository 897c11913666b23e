// plan/saturation.h
//
// Replicas that are always busy: how fast each is beside the others, in every sharing mode.
//
// A replica without a load in the fleet starts its next unit of work when the last is done (a
// closed loop: a batch job, a crawler's encoder, a benchmark). Queues say nothing about it; what
// counts is how much of a GPU's capacity is left to it. docs/operating/latency-model.md derives the
// formulas and compares them with measurements.
//
//   const std::vector<BusyKind> forty{{.count = 40, .unit_ms = 0.4, .demand = 0.09, .part = 0.1}};
//   UnderMps(forty, 0)[0].rate_per_s       // of one replica; 40 of them: 25,589
//
// A workload profile measures all that this needs: KindUnderMps() draws it from there.
//
// Pure functions of their arguments. Thread safety: no shared state.
#pragma once

#include <vector>

#include "model/workload_profile.h"

namespace sublet {

// Replicas of one kind in a partition, all of them always busy.
struct BusyKind {
  int count = 1;
  double unit_ms = 0;    // One unit, alone in this share; without a switch.
  int steps = 1;         // Launch-and-wait rounds in it: so often another process gets a turn.
  int server = 0;        // Its MPS server, where the partition has several.
  double demand = 1;     // Of the partition's capacity, the part that one takes on the curve; 0..1.
  double part = 1;       // Of what a crowd was seen to get, the part that one asks for; above 0.
  double sharpness = 1;  // Of the curve (model/workload_profile.h).
};

// One replica of a kind.
struct BusyFigures {
  double slowdown = 1;    // By the neighbours, switches included; 1: alone.
  double rate_per_s = 0;  // Units a second.
  double latency_ms = 0;  // Of a unit, which is the whole of its cycle.
};

// Time-slicing: every step takes the partition for itself, and then a switch; round robin. Where
// there is one replica, nothing is switched. Figures by kind.
std::vector<BusyFigures> TakingTurns(const std::vector<BusyKind>& kinds, double switch_ms);

// One MPS server. `other_load`: what replicas that are not always busy take of the partition, 0..1.
//
// With D and E the sums of `demand` and `part` over all replicas (and the other load), one is
// slowed
//
//   max( (1 - demand^p + D^p)^(1/p),  E )
//
// by the curve that goes through the measurements, or by the capacity where that is less: more than
// a crowd was seen to get is not promised to a larger one. Alone it is 1; another neighbour never
// makes anybody faster; and the replicas of one kind never get more together than was seen.
std::vector<BusyFigures> UnderMps(const std::vector<BusyKind>& kinds, double other_load);

// Several MPS servers in one partition, time-sliced against each other: within its server's turn a
// replica runs beside the clients of that server, and a turn ends when the slowest of them has done
// a step. With one server, UnderMps().
std::vector<BusyFigures> UnderMpsServers(const std::vector<BusyKind>& kinds, double switch_ms);

// Units a second of all replicas.
double TotalPerS(const std::vector<BusyKind>& kinds, const std::vector<BusyFigures>& figures);

// The share that a replica has of a partition under MPS.
struct MpsShare {
  double sm_percent = 100;  // Of the board that the profile was measured on.
  double stretch = 1;       // Of a unit, by cap, board and bandwidth; over that without a cap.
  double capacity = 1;      // Of the measured board's capacity, what the partition has.
  double share = 1;         // Of the partition, what its cap and its bandwidth let it keep busy.
};

// A replica of this workload under MPS. Where no crowd was measured under such a cap, shares are
// taken to be disjoint: nobody waits until they add up to the partition, and that is its capacity.
BusyKind KindUnderMps(const WorkloadProfile& profile, const MpsShare& share);

}  // namespace sublet
