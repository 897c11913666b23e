// plan/tests/oracle.h
//
// What the planner should have found, worked out the slow way and in its own words.
//
// Of the planner it uses latency.h only: the model of queues is tested by itself. Service times,
// shares, memory, isolation and MIG placement are computed here from the fleet and the catalogue,
// for one set of replicas at a time; every set of replicas is tried in every kind of partition, and
// every cut of a GPU by laying its instances down one after the other.
//
//   const Rulebook rules{BuiltInBoards(), DefaultCalibration()};
//   const std::optional<double> cost = CheapestByTrying(fleet, rules);   // $/h; nullopt:
//   impossible
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/board.h"
#include "model/calibration.h"
#include "model/fleet.h"
#include "plan/latency.h"

namespace sublet {

struct Rulebook {
  const BoardCatalogue& catalogue;
  const Calibration& calibration;
};

enum class Sharing { kAlone, kTurns, kOneServer, kServerEach };

// A replica in a partition.
struct Occupant {
  const Workload* workload = nullptr;
  int cap = 100;  // Percent of the partition's SMs; 100 outside MPS.
};

struct Verdict {
  std::string refusal;  // Empty: they can be together.
  // By occupant.
  std::vector<double> service_ms;
  std::vector<Latency> latency;  // Unset where the workload gives no load.
  std::vector<Bytes> context;
};

// `profile` is nullptr for the whole GPU.
Verdict JudgePartition(const Rulebook& rules, const Board& board, const MigProfile* profile,
                       Sharing sharing, const std::vector<Occupant>& occupants);

// Which SM caps are tried for a replica under MPS.
enum class Caps {
  kKneeAndTightest,  // The two that the planner knows.
  kAll,              // Every multiple of 5 %. For three or four replicas at most.
};

std::optional<double> CheapestByTrying(const Fleet& fleet, const Rulebook& rules,
                                       Caps caps = Caps::kKneeAndTightest);

}  // namespace sublet
