// guard/observation.h
//
// What the preloaded library writes down, in memory that it shares with whoever watches.
//
// The watcher makes the memory, anything that can be opened by a path, and names it to the program
// that it starts:
//
//   LD_PRELOAD=/.../libsublet-guard.so
//   SUBLET_GUARD_OBSERVATION=/proc/4711/fd/5     of kObservationBytes, initialised by its watcher
//
// Each process of the program that speaks to a GPU takes one ObservedProcess and counts there for
// as long as it lives; its figures stay after its end. Nothing is ever reset: a watcher that wants
// a window reads twice and subtracts.
//
// A burst is the unit of work that a program shows from outside: the launches between two waits.
// It lasts from the first launch (or copy to the GPU) after a wait until the end of the next wait.
//
// Thread safety: every field is an atomic of its own; two of them read one after the other may
// belong to different moments.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace sublet::guard {

inline constexpr char kObservationVariable[] = "SUBLET_GUARD_OBSERVATION";
inline constexpr std::uint64_t kObservationMagic = 0x3145434d4c425553;  // "SUBLMCE1"

// A server of eight workers has nine; what is beyond counts in `processes_lost`.
inline constexpr int kObservedProcessesMax = 64;

// Durations in nanoseconds by size: exact below 64, then 32 steps an octave (3 % wide) up to 2^42,
// more than an hour.
inline constexpr int kDurationStepsLog2 = 5;
inline constexpr int kDurationBitsMax = 42;
inline constexpr int kDurationBuckets = (kDurationBitsMax - kDurationStepsLog2 + 1)
                                        << kDurationStepsLog2;

constexpr int DurationBucket(std::uint64_t ns) {
  constexpr std::uint64_t kMost = (std::uint64_t{1} << kDurationBitsMax) - 1;
  if (ns > kMost) ns = kMost;
  const int bits = std::bit_width(ns);
  const int shift = bits <= kDurationStepsLog2 + 1 ? 0 : bits - kDurationStepsLog2 - 1;
  return (shift << kDurationStepsLog2) + static_cast<int>(ns >> shift);
}

// The least duration of a bucket; that of the one after the last is its end.
constexpr std::uint64_t DurationBucketStart(int bucket) {
  constexpr int kSteps = 1 << kDurationStepsLog2;
  if (bucket < 2 * kSteps) return static_cast<std::uint64_t>(bucket);
  const int shift = (bucket >> kDurationStepsLog2) - 1;
  return static_cast<std::uint64_t>(bucket - shift * kSteps) << shift;
}

// What a process waits for after it made its first context, so that its memory can be looked at
// while there is nothing else in it.
enum ContextState : std::uint32_t { kNoContext = 0, kContextHeld = 1, kContextGo = 2 };

struct ObservedProcess {
  std::atomic<std::int32_t> pid;  // 0: not taken.
  std::atomic<std::uint32_t> context_state;
  std::atomic<std::uint64_t> contexts;
  std::atomic<std::uint64_t> launches;  // Kernels and graphs.
  std::atomic<std::uint64_t> waits;
  std::atomic<std::uint64_t> bytes_to_device;
  std::atomic<std::uint64_t> bytes_from_device;
  std::atomic<std::uint64_t> bursts;
  std::atomic<std::uint64_t> last_burst_end_ns;  // CLOCK_MONOTONIC
  std::atomic<std::uint64_t> durations[kDurationBuckets];
};

struct Observation {
  std::uint64_t magic;  // Written by the watcher, before the program starts.
  // How long a process may be held after its first context, in ms; 0: not at all.
  std::atomic<std::uint32_t> hold_ms;
  std::atomic<std::uint32_t> processes_lost;  // That found no place.
  ObservedProcess processes[kObservedProcessesMax];
};

inline constexpr std::size_t kObservationBytes = sizeof(Observation);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace sublet::guard
