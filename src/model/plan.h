// model/plan.h
//
// What Sublet decided: which replica runs where, in which sharing mode, with which limits, why,
// what latency is to be expected, and what it costs.
//
// A Plan is a value. plan/ makes it, render/ turns it into other programs' files, web/ draws it;
// each needs the plan alone, not the fleet file it came from. Its JSON form (docs/formats/plan.md)
// is what `sublet plan -o` writes and `--json` prints.
//
//   plan
//    └ gpus[]                one physical GPU, with or without MIG mode
//       └ partitions[]       the whole GPU, or one MIG instance: memory and SMs of its own
//          ├ servers[]       MPS servers in it, each a fault domain; several are time-sliced
//          └ replicas[]      the processes in it, each with its limits and its prediction
//
//   ASSIGN_OR_RETURN(Plan plan, ParsePlan(text, "plan.json"));
//   for (const PlannedGpu& gpu : plan.gpus) ...
//   std::string json = PlanToJson(plan).dump(2);
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/board.h"
#include "model/launch.h"

namespace sublet {

inline constexpr std::string_view kPlanVersion = "sublet.plan/v1";

// The words of an enum as they stand in files, in the order of the enum.
template <typename Enum>
using EnumWords = std::vector<std::pair<std::string_view, Enum>>;

// How the processes in a partition share it. Streams need one process, so the planner never picks
// them for separate replicas; they appear in comparisons. kMig is a way of cutting a GPU, not of
// sharing a partition: it appears as a GPU's mode and in comparisons.
enum class SharingMode { kExclusive, kStreams, kTimeSlicing, kMps, kMig };
const EnumWords<SharingMode>& SharingModeWords();
std::string_view SharingModeName(SharingMode mode);  // "exclusive", "streams", "time-slicing", ...

// What a workload demands against other tenants' workloads; each level includes those before it.
// kMemory: a neighbour can't take its memory. kFault: a neighbour's crash doesn't reach it.
// kHardware: no SM, cache or memory path is shared with another tenant.
enum class Isolation { kNone, kMemory, kFault, kHardware };
const EnumWords<Isolation>& IsolationWords();
std::string_view IsolationName(Isolation isolation);  // "none", "memory", "fault", "hardware"

// One thing that makes a promise real, or the plain statement that nothing does.
struct Enforcement {
  std::string what;  // "memory", "sm", "fault"
  std::string by;    // "MIG instance", "MPS pinned device memory limit", "not enforced", ...
  bool enforced = false;
};

// What the interference model expects; docs/operating/latency-model.md derives it.
struct Prediction {
  double service_ms = 0;                 // One request alone in this share.
  double slowdown_mean = 1;              // By the neighbours, on average.
  double utilisation = 0;                // Part of the time that the replica is busy; 0..1.
  std::optional<double> latency_ms_p50;  // Absent where the fleet gives no service time.
  std::optional<double> latency_ms_p99;
  // Part of the tightest latency target that is left, in percent; absent without a target.
  std::optional<double> headroom_percent;
  // Units of work a second, of a replica that is always busy; absent where the fleet gives a load,
  // or no measured profile. latency_ms_p50 is that of a unit then.
  std::optional<double> throughput_per_s{};
};

struct PlannedReplica {
  std::string id;        // "llama/0"
  std::string workload;  // "llama"
  std::string tenant;
  Bytes memory;                       // What it is expected to hold, its CUDA context included.
  Bytes context;                      // The CUDA context's part of `memory`.
  std::optional<Bytes> memory_limit;  // Set on the process, context not counted; absent: no limit.
  std::optional<int> sm_percent;      // Of its partition's SMs; absent: no cap.
  std::optional<int> server;          // Index into the partition's servers.
  Prediction prediction;
  std::vector<Enforcement> enforcement;
  std::string reason;  // One sentence: why here, why with these limits.
};

// One MPS control daemon and server: one fault domain.
struct PlannedServer {
  std::string name;    // "gpu0-search": unique in the plan, fit for a folder and a systemd unit.
  std::string tenant;  // Whose clients it takes; empty where tenants without needs share it.
};

struct PlannedPartition {
  std::string name;     // "gpu0" or "gpu0-1g.10gb-0": unique in the plan.
  std::string profile;  // MIG profile; empty for the whole GPU.
  int profile_id = 0;   // As -lgip numbers it; meaningful with a profile.
  int start = 0;        // Placement, in memory units; meaningful with a profile.
  int size = 0;
  Bytes memory;  // What replicas can use, the board's reserve taken off.
  int sm_count = 0;
  SharingMode mode = SharingMode::kExclusive;
  std::vector<PlannedServer> servers;  // Empty unless mode is kMps.
  std::vector<PlannedReplica> replicas;
};

struct PlannedGpu {
  std::string name;   // "gpu0"
  std::string board;  // Catalogue name.
  std::string node;   // Host name where the inventory has one; may be empty.
  std::string uuid;   // "GPU-..." where the plan is for GPUs that exist; otherwise empty.
  int index = -1;     // NVML index where the plan is for GPUs that exist; otherwise -1.
  bool mig = false;   // MIG mode on.
  Bytes memory;
  int sm_count = 0;
  int memory_units = 0;  // Of the board's MIG table; 0 without MIG.
  double price_usd_hour = 0;
  std::vector<PlannedPartition>
      partitions;      // Ascending start; the instances not used are not there.
  std::string reason;  // Why this board, why this mode.
};

// A workload as far as deployment needs it.
struct PlannedWorkload {
  std::string name;
  std::string tenant;
  int replicas = 1;
  Isolation isolation = Isolation::kNone;
  int priority = 0;
  std::vector<std::string> command;
  std::string image;
  std::map<std::string, std::string> env;
  Bytes memory;            // Of one replica, without context.
  std::string memory_how;  // "given", or the sum it was estimated by.
  std::optional<double> latency_ms_p50_target;
  std::optional<double> latency_ms_p99_target;
  // How its processes live; model/launch.h.
  std::optional<int> port{};         // Of the replica "<name>/0"; "<name>/k" has port + k.
  std::optional<Readiness> ready{};  // Absent: ready as soon as it runs.
  RestartPolicy restart = RestartPolicy::kAlways;
  std::optional<double> stop_timeout_s{};  // Absent: kStopTimeoutSDefault.
};

// What a single sharing mode would have given for the whole fleet.
struct Strategy {
  // "exclusive", "streams", "time-slicing", "mps", "mig", "chosen"; and "mps-uncapped" where there
  // are always-busy replicas, to whom the SM cap makes the difference.
  std::string name;
  bool feasible = false;
  int gpus = 0;  // Needed when feasible.
  double cost_month_usd = 0;
  std::string isolation;  // The level that every pair of tenants gets: an Isolation name.
  std::optional<double> latency_ms_p50;  // Worst replica.
  std::optional<double> latency_ms_p99;
  // Replicas that fit on the chosen plan's GPUs under this mode alone.
  int holds = 0;
  std::vector<std::string> breaks;  // What goes wrong, in sentences; empty when nothing does.
  std::optional<double> throughput_per_s{};  // On all its GPUs; as in PlanSummary.
};

// A mode that a workload did not get, and why.
struct Rejection {
  std::string workload;
  SharingMode mode = SharingMode::kExclusive;
  std::string reason;
};

// One difference to the current state. kKeep: its process needn't be touched. kMove: it must be
// started again, on another GPU or in a share with other limits, neighbours or settings.
struct Change {
  enum class Kind { kKeep, kMove, kAdd, kRemove };
  Kind kind = Kind::kKeep;
  std::string replica;
  std::string from;  // Partition names; empty where there is none.
  std::string to;
};
const EnumWords<Change::Kind>& ChangeKindWords();
std::string_view ChangeKindName(Change::Kind kind);  // "keep", "move", "add", "remove"

struct PlanSummary {
  int gpus = 0;
  int replicas = 0;
  std::map<std::string, int> gpus_by_board;
  double cost_hour_usd = 0;
  double cost_month_usd = 0;         // 730 hours.
  double lower_bound_month_usd = 0;  // No plan for this fleet costs less; proven.
  double gap_percent = 0;            // (cost - bound) / bound.
  std::string verdict;               // "optimal" or "within 0.8 %"
  double headroom_percent_min = 0;   // Smallest over replicas with a target; 100 without any.
  std::optional<double>
      throughput_per_s{};  // Sum over replicas that predict one; absent without any.
};

struct Plan {
  std::string fleet;  // The fleet file's name field.
  PlanSummary summary;
  std::vector<PlannedGpu> gpus;
  std::vector<PlannedWorkload> workloads;
  std::vector<Strategy> strategies;
  std::vector<Rejection> rejections;
  std::vector<Change> changes;  // Empty without a current state.
  std::vector<std::string>
      warnings;             // What the reader must know: scaled figures, nothing enforced.
  std::string calibration;  // Where interference figures come from.
};

inline constexpr double kHoursPerMonth = 730;  // 8,760 hours a year over 12.

// Amounts of memory are written in MiB: what a replica needs rounded up, what there is rounded
// down.
nlohmann::ordered_json PlanToJson(const Plan& plan);
// Strict: unknown keys, a wrong version and broken references fail with kInvalid: a replica's
// server or workload that isn't there, a name that occurs twice, a workload whose replicas aren't
// all placed.
Result<Plan> ParsePlan(std::string_view text, std::string_view source);

}  // namespace sublet
