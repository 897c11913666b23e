// measure/crew.h
//
// The lab's workers: real processes, each with a CUDA context of its own, that wait together, start
// together and report what they did.
//
// A worker is this program again, under the hidden verb `measure-worker`. It stays alive over many
// rounds, so that forty contexts are made once. Commands and replies go over a socket pair, one
// JSON message each; the start line, a few counters in shared memory without a name (memfd), lets
// them go at the same moment. Nothing is left behind when this process dies: the kernel ends the
// workers with it (PR_SET_PDEATHSIG), and the shared memory has no name.
//
//   ASSIGN_OR_RETURN(auto crew, Crew::Start(options, {4, WorkerPlace{.gpu_uuid = uuid}}));
//   RETURN_IF_ERROR(crew->Prepare(0, "small", 1));     // likewise 1, 2, 3
//   std::vector<WorkerOutcome> outcomes = crew->RunRound({0, 1, 2, 3}, {.window_ms = 250});
//
// A worker that dies, or doesn't answer in time and is killed for it, fails what it was asked and
// all that it is asked later; the others go on. Once Interrupted() (base/interrupt.h) every wait
// ends within two seconds, and everything fails with kUnavailable, "interrupted".
//
// Thread safety: one thread at a time, and the one that started the crew must outlive it: when that
// thread ends, the kernel ends the workers (base/child_process.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/child_process.h"
#include "base/result.h"

namespace sublet {

// How a worker is started: what a tenant would find in its environment.
struct WorkerPlace {
  std::string gpu_uuid = {};               // Of the GPU or MIG instance: CUDA_VISIBLE_DEVICES.
  std::string mps_pipe_directory = {};     // Empty: it must not become a client of any MPS server.
  std::optional<int> sm_percent = {};      // CUDA_MPS_ACTIVE_THREAD_PERCENTAGE
  std::optional<Bytes> memory_limit = {};  // CUDA_MPS_PINNED_DEVICE_MEM_LIMIT, of device 0.
  bool blocking_wait = false;  // Sleep in a wait instead of spinning (CU_CTX_SCHED_BLOCKING_SYNC).
};

struct CrewOptions {
  std::string program;       // What is executed; empty: /proc/self/exe.
  std::string cuda_library;  // Empty: libcuda.so.1 as the loader finds it.
  int gpu_sm_count = 0;      // Of the whole GPU, for WorkloadOptions; 0: as a worker sees it.
  // Contexts that are made at the same time. More don't get ready earlier, because the driver makes
  // one after the other, and each would seem to take longer.
  int starting_max = 8;
  // Workers that can't start are told of in failure(), instead of failing Start().
  bool keep_going = false;
  double start_timeout_s = 60;
  double reply_timeout_s = 30;  // Beyond what a command itself is to take.
};

struct WorkerInfo {
  int pid = 0;
  double startup_ms = 0;  // From starting the process until its context was there.
  // From starting the process until its first unit ever was done, its waits for commands left out;
  // 0 before that.
  double first_unit_ms = 0;
  int sm_count = 0;  // That its device shows; fewer under an SM cap.
};

struct RoundOptions {
  double warmup_ms = 50;   // Running, not counted.
  double window_ms = 250;  // All work until everybody's window is over; units that end in it count.
};

// One stream's part of a round.
struct StreamFigures {
  std::int64_t units = 0;
  double rate_per_s = 0;
  double latency_ms_p50 = 0;
  double latency_ms_p99 = 0;
  double latency_ms_max = 0;
  double gap_ms_max = 0;  // The longest time between two finished units.
};

// What became of a worker's part in a round: `streams`, or `error` where it failed or died.
struct WorkerOutcome {
  std::vector<StreamFigures> streams;
  std::optional<Error> error;
  bool died = false;
};

struct AllocationReply {
  Bytes allocated;      // By allocations of falling size until the smallest (2 MiB) was refused.
  std::string refusal;  // "CUDA_ERROR_OUT_OF_MEMORY"
};

enum class Misdeed { kIllegalAccess, kSleepForever };

// What a worker at this place finds in its environment. What a user's shell says about CUDA is left
// out, but for the cache of compiled kernels: it must not change what is measured.
ChildEnvironment EnvironmentAt(const WorkerPlace& place);

// Adds to an environment what puts a process there: device, MPS server or none, SM cap, limit.
void PutInPlace(ChildEnvironment& environment, const WorkerPlace& place);

class Crew {
 public:
  // Starts all workers and waits until each has a context. Fails with kUnavailable, naming
  // the worker, where one dies or says no; then all are stopped.
  static Result<std::unique_ptr<Crew>> Start(const CrewOptions& options,
                                             const std::vector<WorkerPlace>& places);
  ~Crew();  // Stops every worker: asks, then kills.

  int size() const;
  const WorkerInfo& info(int worker) const;
  // Why a worker is no more; absent while it lives.
  const std::optional<Error>& failure(int worker) const;

  // Gives a worker its workload and runs one unit of it. Keeps the one it has where that is the
  // same. The returned time is from the start of the process to the end of its first unit ever.
  Result<double> Prepare(int worker, std::string_view workload, int streams);
  // As Prepare() for several at once.
  Status PrepareAll(const std::vector<int>& workers, std::string_view workload, int streams);
  // Frees a worker's workload; its context stays.
  Status Rest(const std::vector<int>& workers);

  // All `workers` work at the same time, each on all of its streams; one outcome each.
  std::vector<WorkerOutcome> RunRound(const std::vector<int>& workers, const RoundOptions& options);

  // One round in which worker `culprit` does something bad in the middle of the window, or is sent
  // `signal`, or something is done to it by `act`, called in this thread; the others go on until
  // theirs is over. A culprit that goes to sleep is killed after the round.
  std::vector<WorkerOutcome> RunRoundWithMisdeed(const std::vector<int>& workers, int culprit,
                                                 Misdeed misdeed, const RoundOptions& options);
  std::vector<WorkerOutcome> RunRoundWithSignal(const std::vector<int>& workers, int culprit,
                                                int signal, const RoundOptions& options);
  std::vector<WorkerOutcome> RunRoundWithAct(const std::vector<int>& workers, int culprit,
                                             const std::function<void()>& act,
                                             const RoundOptions& options);

  // Allocates until refused, then frees.
  Result<AllocationReply> AllocateToTheWall(int worker);

 private:
  class State;
  explicit Crew(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sublet
