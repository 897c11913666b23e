// node/usage.h
//
// What each process uses of each GPU, by the driver, and whose it is.
//
//   UsageCursor cursor;                                 // Kept between samples.
//   ASSIGN_OR_RETURN(const UsageSample sample, SampleUsage(nvml.api(), cursor));
//   const ProcessOwners owners = directory.Owners(sample, known);   // node/process_owners.h
//   const NodeUsage usage = AttributeUsage(sample, owners, shares);
//   usage.shares.at("s17").memory_used
//
// SampleUsage() asks the driver and belongs on a worker thread; the rest is pure. A GPU that
// doesn't answer has its `problem` in the sample and hides no other. What a driver can't tell
// (utilisation by process under MIG, memory without permission) is absent.
//
// SM use is the driver's figure: the percentage of time in which at least one kernel of a process
// ran, of the samples since the last look. What may surprise about it:
// - The first sample has none: the driver would answer with old figures, even of processes whose
//   pid is another's by now.
// - It is about time, not about SMs: a kernel on one SM counts as much as one on all of them.
// - Under MPS the driver sums up a server's clients as the server's. So a share has a figure only
//   while it is the only one of its domain that uses the GPU; the domain's is always there.
// - The driver takes a sample now and then: looks less than two seconds apart may see none.
//
// Thread safety: SampleUsage from any thread, one cursor in one thread; the rest are values.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "inventory/nvml_library.h"
#include "model/node_status.h"

namespace sublet {

struct ProcessUsage {
  int pid = 0;
  std::optional<Bytes> memory;
  std::optional<double> sm_percent;  // Absent where the driver doesn't tell.
  bool mps_client = false;           // In the driver's list of MPS clients.
  bool graphics = false;             // Only in the list of graphics processes.
  std::optional<int> gpu_instance;   // Under MIG.
};

struct GpuUsage {
  std::string uuid;
  int index = 0;
  Bytes memory;
  Bytes memory_used;
  std::optional<int> utilisation_percent;
  std::vector<ProcessUsage> processes;  // Ascending pid; one entry for each GPU instance.
  bool processes_known = false;         // The driver tells all that compute.
  bool clients_known = false;           // The driver tells which are MPS clients.
  std::string problem;                  // Why the GPU didn't answer; empty: it did.
};

struct UsageSample {
  std::vector<GpuUsage> gpus;  // Ascending index.
};

// How far the driver's samples of utilisation have been read, by GPU.
struct UsageCursor {
  std::map<std::string, unsigned long long> seen_us;  // By UUID; 0 before the first sample.
};

// Fails only where the GPUs can't even be counted.
Result<UsageSample> SampleUsage(const nvml::Api& api, UsageCursor& cursor);

// Whose a process is.
struct ProcessOwner {
  enum class Kind { kForeign, kShare, kOwn };  // kOwn: Sublet's, as an MPS server.
  Kind kind = Kind::kForeign;
  std::string id;            // kShare: the share's; kOwn: the domain's name, where it is known.
  std::string name;          // Of the program; for people.
  std::int64_t started = 0;  // Field 22 of /proc/PID/stat; a pid with another is another process.
};
using ProcessOwners = std::map<int, ProcessOwner>;  // By pid.

struct ShareUsage {
  std::optional<Bytes> memory_used;       // Of all its processes; absent where it isn't known.
  std::optional<double> sm_used_percent;  // At most 100.
  std::vector<int> pids;                  // On GPUs; ascending.
};

struct NodeUsage {
  // By id: every share that has processes on a GPU, or whose GPU's processes are known.
  std::map<std::string, ShareUsage> shares;
  std::map<std::string, double> domain_sm_percent;             // By the domain's name.
  std::map<std::string, std::vector<ForeignProcess>> foreign;  // By GPU; ascending pid.
};

// A pid that `owners` doesn't have is foreign. `shares`: all that there are.
NodeUsage AttributeUsage(const UsageSample& sample, const ProcessOwners& owners,
                         const std::vector<Share>& shares);

// A process of an MPS share that uses the GPU past its server, so that no limit holds it.
struct Unconfined {
  int pid = 0;
  std::int64_t started = 0;
  std::string share;
  std::string gpu_uuid;
};

// Finds processes of shares with a domain that the driver lists as compute, but not as MPS clients.
// The driver's lists are read one after the other, and a client that just starts may be in the
// wrong one: it is named only when seen so in two samples, `grace_s` apart or more. Where the
// driver doesn't tell which are MPS clients, nobody is named.
class UnconfinedSearch {
 public:
  explicit UnconfinedSearch(double grace_s = 2) : grace_s_(grace_s) {}
  // `shares`: all that there are. `now_ns`: of a monotonic clock.
  std::vector<Unconfined> Find(const UsageSample& sample, const ProcessOwners& owners,
                               const std::vector<Share>& shares, std::int64_t now_ns);

 private:
  double grace_s_;
  std::map<std::pair<int, std::int64_t>, std::int64_t> first_seen_ns_;  // By pid and start.
};

}  // namespace sublet
