// plan/problem.h
//
// The planner's view of its input: which board offers which partitions, and what each workload
// would need and get in each of them.
//
//   ASSIGN_OR_RETURN(Problem problem, BuildProblem(fleet, pools, calibration, modes));
//   const Offer& whole = problem.boards[0].offers[0];   // the whole GPU; MIG profiles follow
//   for (const Variant& v : whole.mps) ...               // a way to put a workload there under MPS
//
// Everything that depends on one workload and one kind of partition is worked out here, once:
// memory with the CUDA context of the mode, service time, the smallest SM cap that meets the
// target, and how much load the whole partition may carry before the target is missed. What is left
// for the search (plan/pricing.h) is to choose sets of variants under a few sums.
//
// Thread safety: values; constant after construction.
#pragma once

#include <array>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/board.h"
#include "model/calibration.h"
#include "model/fleet.h"
#include "plan/geometry.h"
#include "plan/latency.h"
#include "plan/saturation.h"

namespace sublet {

// Which sharing modes a plan may use; a pure strategy allows one.
struct ModeSet {
  bool exclusive = true;  // A partition of one's own; without it only where nothing is shared.
  bool mig = true;
  bool time_slicing = true;
  bool mps = true;          // One server a partition.
  bool mps_servers = true;  // Several servers in a partition, time-sliced against each other.
  bool caps = true;         // Under MPS, less than all SMs for a process.
};

// GPUs of one board that a plan may use.
struct Pool {
  const Board* board = nullptr;
  int count = -1;  // -1: as many as it takes.
  double price_usd_hour = 0;
  ModeSet modes;                                  // What these GPUs' environment can run.
  std::shared_ptr<const GeometryTable> geometry;  // nullptr without MIG.
};

// One way to put a replica of a workload into a partition.
struct Variant {
  int workload = 0;
  int sm_percent = 0;     // Cap, of the partition's SMs; 0: none.
  double service_ms = 0;  // Alone in this share; 0 where the workload gives no load.
  double stretch = 1;     // Of the service, by this share: 1 on the whole board it was measured on.
  double share = 1;       // Part of the partition it keeps busy while it runs; 0..1.
  double load = 0;        // share x part of the time it runs, without neighbours.
  Bytes context;
  Bytes memory;  // Context included.
  // The most load the partition may carry, its own included, for its target to hold when `slots`
  // neighbours fit side by side (index); negative: never. Infinite for a workload without load.
  std::array<double, kSlotsMax + 1> load_max{};
  // What it does where it is always busy; absent where the fleet gives a load or no measured
  // profile.
  std::optional<BusyKind> busy;

  int slots() const;  // How many of its size fit side by side: floor(1 / share), at most kSlotsMax.
};

// A kind of partition on a board and what fits there.
struct Offer {
  int profile = -1;  // Index into the board's profiles; -1: the whole GPU.
  Bytes memory;      // For processes, the reserve taken off.
  int sm_count = 0;
  double sm_fraction = 1;
  double bandwidth_fraction = 1;
  EngineCounts engines;
  int clients_max = 0;  // MPS clients.
  // By workload; those that fit only. A variant alone in its partition always meets its target.
  std::vector<Variant> exclusive;
  std::vector<Variant> time_slicing;  // Beside others: the switches are in service_ms.
  std::vector<Variant> mps;           // Up to two a workload: at its knee, and as tight as allowed.
  std::vector<Variant> servers;       // MPS beside other servers: time-sliced, memory limited.
  // Under MPS, each workload with `busy` at every cap, ascending. What they do together depends on
  // how many they are, so the best cap is chosen when that is known (plan/refine.h).
  std::vector<Variant> busy_caps;
};

struct BoardOffers {
  Pool pool;
  Calibration calibration;
  std::vector<Offer> offers;  // [0] is the whole GPU; profiles only where MIG is allowed.
  const GeometryTable* geometry = nullptr;  // nullptr without MIG, or where it isn't allowed.
};

struct Problem {
  const Fleet* fleet = nullptr;
  ModeSet modes;
  std::vector<BoardOffers> boards;
  std::vector<int> tenant_of;  // By workload: index into fleet->tenants.
  int tenant_count = 0;
  std::vector<const Board*> measured_on;  // By workload; nullptr: on every board.
};

// Service time, on `board` with `sm_percent` of its SMs and `bandwidth_fraction` of its bandwidth,
// over that alone on the board it was measured on. At least 1: a faster board earns no credit until
// somebody measures there. `measured_on` is nullptr where the figures hold on every board.
double ServiceStretch(const ComputeNeed& need, const Board& board, const Board* measured_on,
                      double sm_percent, double bandwidth_fraction);

// The requests that one replica gets, served in `service_ms`. REQUIRES: the workload has a load.
RequestStream StreamOf(const Workload& workload, double service_ms);

// "a p99 of 31.0 ms, 20.0 ms are allowed": which target a latency misses. REQUIRES: it misses one.
std::string MissOf(const Workload& workload, const Latency& latency);

// Why the workload has no variant for this mode in this offer: "needs 18.2 GiB, 9.5 GiB are there".
// Empty where it has one.
std::string WhyNoVariant(const Problem& problem, int board, int offer, int workload,
                         SharingMode mode, bool servers);

// Fails with kNotFound for an unknown board in `measured_on`. REQUIRES: the fleet and the pools'
// boards outlive the Problem.
Result<Problem> BuildProblem(const Fleet& fleet, const std::vector<Pool>& pools,
                             const BoardCatalogue& catalogue, const Calibration& calibration,
                             const ModeSet& modes);

}  // namespace sublet
