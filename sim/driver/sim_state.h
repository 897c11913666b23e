// sim/driver/sim_state.h
//
// What changes while the simulated machine runs, shared between processes and outliving them.
//
// The state is a JSON file in a folder of its own. A writer holds a lock (flock on a file beside
// it), writes a new file and renames it over the old one. So a writer that is killed leaves the old
// state and no lock, and readers need no lock at all: they look whether the file is another one
// than they know, which costs one stat().
//
//   ASSIGN_OR_RETURN(StateStore store, StateStore::Open(folder, node));
//   std::shared_ptr<const SimState> now;
//   RETURN_IF_ERROR(store.Read(now));
//   store.Update([](SimState& state) { state.gpus[0].mig = true; return nvml::kSuccess; });
//
// Thread safety: Read and Update from any thread.
#pragma once

#include <sys/stat.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "inventory/nvml_api.h"
#include "model/inventory.h"
#include "sim_node.h"

namespace sublet::sim {

struct GpuState {
  bool mig = false;
  bool mig_pending = false;
  bool lost = false;
  int ecc_uncorrected = 0;     // Since the last reset, beside what the node file has.
  bool remap_pending = false;  // Until the next reset.
  int compute_mode = 0;        // NVML's numbers.
  std::vector<GpuInstance> instances;
};

struct ProcessState {
  int pid = 0;
  long long started =
      0;  // Of /proc/PID/stat, so that a pid used again isn't taken for the old one.
  int gpu = 0;
  int gpu_instance = -1;  // -1 outside MIG.
  int compute_instance = -1;
  Bytes memory;
  ProcessType type = ProcessType::kCompute;
};

struct XidEvent {
  long long number = 0;  // Ascending; a reader keeps the last that it saw.
  int gpu = 0;
  int xid = 0;
  int gpu_instance = -1;
  int compute_instance = -1;
};

struct SimState {
  std::vector<GpuState> gpus;
  std::vector<ProcessState> processes;
  std::vector<XidEvent> events;  // The last kEventsMax.
  long long events_seen = 0;     // Number of the newest event.
  std::vector<std::string> faults;
};

inline constexpr std::size_t kEventsMax = 256;  // Nobody waits for older ones.
// Adds an event and gives it its number.
void PushEvent(SimState& state, XidEvent event);

// How the machine is when it is switched on.
SimState InitialState(const SimNode& node);

class StateStore {
 public:
  // Makes `folder` (mode 0700) where it is missing, and the state where there is none. Fails with
  // kPermission where the folder belongs to somebody else (unless SUBLET_SIM_STATE names one that
  // is open to all: then several users share it), with kInvalid where a state is broken.
  static Result<std::unique_ptr<StateStore>> Open(const std::string& folder, const SimNode& node);

  // The newest state. Processes in it may be dead: ask IsAlive().
  Result<std::shared_ptr<const SimState>> Read();

  // Runs `change` on the newest state, without dead processes, while nobody else can. What it did
  // is kept when it returns kSuccess; its code is returned. kUnknown where the state can't be read
  // or written.
  nvml::Return Update(const std::function<nvml::Return(SimState&)>& change);

 private:
  StateStore(std::string path, const SimNode& node) : path_(std::move(path)), node_(node) {}
  Status Write(const SimState& state);

  const std::string path_;
  const SimNode& node_;  // Outlives the store.

  std::mutex mutex_;  // Guards what is below.
  std::shared_ptr<const SimState> known_;
  struct stat known_file_ {};
};

// Opens or makes a file of the state: for its user alone, but in a folder that is open to all, for
// all. -1 and errno where it can't.
int OpenStateFile(const std::string& path, int flags);

// The start time of a live process, 0 for a dead one.
long long StartTimeOf(int pid);
bool IsAlive(const ProcessState& process);

}  // namespace sublet::sim
