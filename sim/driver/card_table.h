// sim/driver/card_table.h
//
// What all processes on a simulated node share about its running GPUs: contexts, streams, what
// waits in them, and the clock. One file, mapped by every process (card_host.h), advanced by
// whoever holds its lock (card_clock.h).
//
// Plain structs of fixed size without pointers: other processes have them at other addresses. All
// of it is zero at first, and zero means absent. Tables are as large as what a big machine runs;
// the file is sparse, so that room that nobody uses costs nothing.
//
// Thread safety: everything under CardTable::mutex, but for what is std::atomic.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

#include "kernel_costs.h"
#include "sim_node.h"

namespace sublet::sim {

inline constexpr int kCardProcessesMax = 256;  // Five full MPS servers.
inline constexpr int kCardContextsMax = 8;     // Of a process: one for each GPU of a big server.
inline constexpr int kCardStreamsMax = 64;     // Of a process; their bits fit a word.
inline constexpr int kCardItemsMax = 1024;  // A real stream holds about as many before it blocks.
inline constexpr int kCardEventsMax = 1024;
inline constexpr int kCardWaitsMax = 64;  // Threads of a process that wait at once.
inline constexpr int kPartitionsMax = 9;  // The whole GPU, and MIG's eight slices at most.
inline constexpr int kMpsServersMax = 64;

enum class ItemKind : std::int32_t { kKernel, kCopyIn, kCopyOut, kRecord, kAwait };
enum class ItemState : std::int32_t { kFree, kQueued, kRunning };

// Something in a stream.
struct CardItem {
  ItemState state = ItemState::kFree;
  ItemKind kind = ItemKind::kKernel;
  std::int32_t stream = 0;
  std::int32_t next = -1;     // In the stream.
  std::uint64_t number = 0;   // Ascending in the process.
  std::int64_t ready_ns = 0;  // Not before.
  CardWork work;              // Of kernels and copies.
  double left = 1;            // Part not done yet, at `updated_ns`.
  double speed = 0;           // Part a nanosecond, since then.
  std::int64_t updated_ns = 0;
  std::int32_t event = -1;          // kRecord
  std::int32_t awaited_stream = 0;  // kAwait: until that stream is past `awaited`.
  std::uint64_t awaited = 0;
  bool illegal = false;
};

struct CardStream {
  bool used = false;
  bool blocking = false;  // Takes its turn with the context's default stream.
  bool is_default = false;
  std::int32_t context = 0;
  std::int32_t head = -1;
  std::int32_t tail = -1;
  std::uint64_t last = 0;  // Number of the newest item.
  std::uint64_t done = 0;  // Number of the last that is done.
};

struct CardEvent {
  bool used = false;
  std::int32_t stream = 0;
  std::uint64_t number = 0;  // Of the item that records it; 0 before the first.
  std::int64_t time_ns = 0;
};

struct CardContext {
  bool used = false;
  std::int32_t gpu = 0;
  std::int32_t partition = 0;
  // Who runs together: each MPS server's clients, and every other context alone.
  std::int32_t group = 0;
  std::int32_t server_pid = 0;  // 0 without MPS.
  double sm_cap = 0;
  std::int32_t error = 0;  // CUDA's code; once set, it stays.
};

enum class WaitKind : std::int32_t { kNone, kStream, kContext, kTime };

struct CardWait {
  WaitKind kind = WaitKind::kNone;
  bool over = false;
  std::int32_t index = 0;    // Of the stream or context.
  std::uint64_t number = 0;  // kStream: until this is done. kContext: all up to this.
  std::int64_t time_ns = 0;  // kTime
};

struct CardProcess {
  bool used = false;
  std::int32_t pid = 0;
  long long started = 0;  // Of /proc/PID/stat.

  bool keeps_time = false;  // It has called a function of sublet_sim_cuda.h.
  bool holds = false;       // The clock may not pass local_ns.
  bool held = false;        // It will hold again after the wait that it is in.
  std::int64_t local_ns = 0;
  std::int32_t waiting = 0;  // Entries of `waits`.

  std::int64_t begun_ns = 0;
  double sm_ns = 0;  // SM time of the kernels that it has finished.
  std::uint64_t last_number = 0;
  std::int32_t outstanding = 0;
  std::int32_t free_hint = 0;
  std::uint64_t busy_streams = 0;  // A bit for each that has items.
  CardContext contexts[kCardContextsMax];
  CardStream streams[kCardStreamsMax];
  CardWait waits[kCardWaitsMax];
  CardEvent events[kCardEventsMax];
  CardItem items[kCardItemsMax];

  std::atomic<std::uint32_t> wake;      // Counted up whenever one of its waits ends.
  std::atomic<std::uint32_t> sleepers;  // Threads that sleep until then.
};

// A whole GPU or a MIG compute instance: what is time-sliced on its own.
struct CardPartition {
  bool used = false;
  std::int32_t gpu_instance = -1;
  std::int32_t compute_instance = -1;
  CardFacts facts;
  std::int32_t active = 0;        // The group on it; 0 before the first.
  std::int64_t slice_end_ns = 0;  // 0 while nobody else waits.
  std::int64_t stopped_ns = 0;    // Nothing runs before: a switch, or a fault.
  double sms_busy = 0;
  double traffic = 0;
};

struct CardGpu {
  CardPartition partitions[kPartitionsMax];
  double idle_w = 0;
  double busy_w = 0;
  double power_w = 0;
  bool is_busy = false;
  double bus_in = 0;  // Bytes a nanosecond, now.
  double bus_out = 0;
  std::atomic<double> energy_mj;
  std::atomic<double> busy_ns;  // Time in which some kernel ran.
};

struct MpsServerEntry {
  std::int32_t pid = 0;  // 0: free.
  long long started = 0;
};

// A control daemon of ours, by its pipe directory: so that nobody takes NVIDIA's for one.
struct MpsDaemonEntry {
  std::int32_t pid = 0;  // 0: free.
  long long started = 0;
  std::uint64_t folder_device = 0;
  std::uint64_t folder_inode = 0;
};

struct CardTable {
  std::uint32_t magic = 0;
  std::uint32_t size = 0;
  pthread_mutex_t mutex;
  std::int64_t now_ns = 0;
  // Where processes that don't keep time are paced: then the clock was `pace_virtual_ns`.
  std::int64_t pace_real_ns = 0;
  std::int64_t pace_virtual_ns = 0;
  std::int64_t idle_ns = 0;  // The latest that a process knew when it let go.
  // Of the clock: when something happens next, and whether that must be found out again.
  std::int64_t next_ns = 0;
  bool changed = true;
  std::uint64_t used_processes[kCardProcessesMax / 64] = {};
  MpsServerEntry servers[kMpsServersMax];
  MpsDaemonEntry daemons[kMpsServersMax];
  CardGpu gpus[kSimGpusMax];
  CardProcess processes[kCardProcessesMax];
};

}  // namespace sublet::sim
