// measure/schedule.h
//
// What the lab runs, in which order: decided beforehand, as a value.
//
// A schedule is a list of acts. An act is one crew of workers, started together in one environment,
// with the trials that they run one after the other; processes are what takes long to start, so
// everything that one environment allows is done with one crew.
//
//   Schedule schedule = MakeSchedule(facts, {.effort = Effort::kQuick, .seed = 7});
//   for (const Act& act : schedule.acts) for (const Trial& trial : act.trials) ...
//
// `alone` comes first, because all slowdowns refer to it, and its repetition last, so that a card
// that got slower meanwhile is seen. What lies between is shuffled by the seed: no mode always runs
// on the warmest card.
//
// Pure. Thread safety: values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/measurement.h"

namespace sublet {

enum class Effort { kQuick, kFull };

// Parts that `--only` can choose.
enum class LabPart {
  kStreams,
  kTimeSlicing,
  kMps,
  kSmSweep,
  kServers,
  kMig,
  kPairs,
  kQuota,
  kFaults,
};
const EnumWords<LabPart>& LabPartWords();  // "streams", "time-slicing", "mps", "sm-sweep", ...

struct LabRequest {
  Effort effort = Effort::kQuick;
  std::vector<LabPart> only = {};  // Empty: all but faults.
  bool faults = false;             // Also let tenants misbehave.
  std::uint64_t seed = 1;
};

// What is known of the GPU before anything runs.
struct LabFacts {
  Bytes memory_free;
  bool tensor_cores = true;  // Compute capability 8.0 or above.
  bool mig = false;          // MIG mode is on: nothing runs on the whole GPU.
  std::string no_mps;        // Why MPS can't be used; empty where it can.
  std::string no_mig;        // Why MIG isn't measured; empty where instances are listed.
  // There are no instances, and the lab may make some for as long as it measures in them.
  bool may_cut_mig = false;
  std::vector<std::string> mig_uuids;     // Of the instances that exist.
  std::vector<std::string> mig_profiles;  // One for each.
};

// One worker's part in a trial.
struct Part {
  int worker = 0;
  std::string workload;
};

struct Trial {
  std::string id;
  std::string series;
  std::vector<Part> parts;
  int streams = 1;
  double window_ms = 100;
};

// What an act does beside trials.
enum class ActKind {
  kTrials,
  kQuota,    // Allocate under a memory limit until refused.
  kClients,  // Start clients until MPS takes no more.
  kFaults,   // Misbehave.
  kCutMig,   // Make MIG instances, measure in them as MigAct() says, and put back what was there.
};

struct Act {
  ActKind kind = ActKind::kTrials;
  std::string name;  // "MPS, 10 % of the SMs each": for the progress line.
  SharingMode mode = SharingMode::kExclusive;
  int servers = 0;                    // MPS control daemons to start; workers take turns on them.
  std::optional<int> sm_percent;      // Of every worker.
  std::optional<Bytes> memory_limit;  // Of every worker.
  int workers = 1;
  std::vector<std::string> mig_uuids;     // By worker; empty outside MIG.
  std::vector<std::string> mig_profiles;  // Likewise.
  std::vector<Trial> trials;

  double ExpectedSeconds(Effort effort) const;  // A guess, for the time left.
  std::string MigProfileOf(int worker) const;   // Empty outside MIG.
};

struct Schedule {
  std::vector<Act> acts;
  std::vector<Skipped> skipped;
};

// The largest crowd: forty, or as many as the memory holds.
inline constexpr int kCrowdMax = 40;

Schedule MakeSchedule(const LabFacts& facts, const LabRequest& request);

// What is measured in the MIG instances of `facts`: each workload alone in each, and in all at
// once. How many there are, and of which profile, is known of an act of kCutMig only once they are
// made.
Act MigAct(const LabFacts& facts, const LabRequest& request);

}  // namespace sublet
