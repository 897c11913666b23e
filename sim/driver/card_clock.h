// sim/driver/card_clock.h
//
// The simulated cards' scheduler and clock: a discrete-event simulation over the CardTable.
//
// Time goes from event to event: an item becomes ready, a kernel or copy ends, a time slice ends.
// It never passes what a process that keeps time has reached on its own (`local_ns` of one that
// holds), nor, while a process that doesn't keep time has work, the machine's clock.
//
// The rules of a card (README.md has the reasons and the sources):
//   - In a stream one thing after the other; the default stream takes turns with the blocking ones.
//   - One group at a time has a partition: an MPS server's clients, or one context. Groups take
//     turns: after kSliceNs when another waits, at once when there is nothing to do; each switch
//     costs kSwitchNs.
//   - The active group's kernels share the partition (card_sharing.h).
//   - Copies run at any time; each direction's share the GPU's bus evenly.
//
// Thread safety: under the table's lock.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

#include "card_sharing.h"
#include "card_table.h"

namespace sublet::sim {

inline constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

// Measured on an H200, driver 580: 2,197 kernels of 0.1 ms a second for each of two processes.
inline constexpr std::int64_t kSwitchNs = 130'000;
// The driver's default time slice.
inline constexpr std::int64_t kSliceNs = 2'000'000;
// Measured: both directions 51.5 GiB/s with pinned memory.
inline constexpr double kBusBytesPerNs = 51.5 * (1 << 30) / 1e9;
// Measured: how long the neighbours stood still after an illegal access, and after an MPS client
// was terminated.
inline constexpr std::int64_t kFaultPauseNs = 141'000'000;
inline constexpr std::int64_t kTerminatePauseNs = 7'000'000;

// What a driver call costs the processor that makes it. Launching and waking up make up the 7 us
// between a kernel of 0.093 ms and the 10,013 that an H200 ran in a second.
inline constexpr std::int64_t kLaunchNs = 3'000;
inline constexpr std::int64_t kGraphLaunchNs = 6'000;
inline constexpr std::int64_t kWakeNs = 4'000;
inline constexpr std::int64_t kAskNs = 500;
// More of it for a client of MPS: 9,931 kernels a second instead of 10,013, and 4,111 graphs
// instead of 4,244.
inline constexpr std::int64_t kMpsLaunchNs = 800;
inline constexpr double kGraphGapNs = 1'000;  // Between two kernels of a graph.
inline constexpr double kMpsGraphGapNs = 150;

class CardClock {
 public:
  explicit CardClock(CardTable& table) : table_(table) {}

  // Runs the simulation as far as everybody allows; `real_ns` is the machine's clock. What stands
  // next is in CardTable::next_ns afterwards.
  void Advance(std::int64_t real_ns);
  // Whether nobody but the machine's clock kept Advance() from going on.
  bool is_paced() const { return is_paced_; }
  // The processes whose waits ended; the caller wakes them and clears the list.
  std::vector<int>& woken() { return woken_; }

  // Puts an item into its stream, where there is room (CardProcess::outstanding).
  void Submit(CardProcess& process, const CardItem& item);
  // Whether the wait is over by now.
  bool IsOver(const CardProcess& process, const CardWait& wait) const;

  // `code` befalls the context's whole fault domain: the clients of its MPS server, or it alone.
  void Break(const CardContext& context, int code, std::int64_t pause_ns);
  // It befalls one context alone; the partition stands still for a moment.
  void BreakOne(CardProcess& process, int context, int code, std::int64_t pause_ns);
  // Drops what the context still has to do; whoever waits for it is woken.
  void Drop(CardProcess& process, int context);
  // The process is gone.
  void Forget(CardProcess& process);

  template <typename Visit>
  void ForEachProcess(const Visit& visit) {
    for (int word = 0; word < kCardProcessesMax / 64; ++word) {
      for (std::uint64_t bits = table_.used_processes[word]; bits != 0; bits &= bits - 1) {
        visit(table_.processes[word * 64 + std::countr_zero(bits)]);
      }
    }
  }

 private:
  // The first of a stream.
  struct Head {
    CardProcess* process;
    CardItem* item;
    CardPartition* partition;  // nullptr for a copy.
    CardContext* context;
    int client;
  };

  std::int64_t Limit(std::int64_t real_ns);
  std::int64_t CollectHeads();
  bool CollectFrom(CardProcess& process, std::int64_t& next_ns);
  bool MayStart(const CardProcess& process, const CardStream& stream, const CardItem& item) const;
  std::int64_t RunPartitions();
  bool PickGroup(CardPartition& partition, std::size_t first, std::size_t last,
                 std::int64_t& change_ns);
  std::int64_t RunPartition(CardPartition& partition, std::size_t first, std::size_t last);
  std::int64_t RunCopies();
  std::int64_t SetSpeed(CardItem& item, double speed);
  void SetPower();
  void Pass(std::int64_t to_ns);
  void CompleteDue();
  void Complete(CardProcess& process, CardStream& stream);
  void EndWaits(CardProcess& process);
  void EndTimeWaits();
  int IndexOf(const CardProcess& process) const {
    return static_cast<int>(&process - table_.processes);
  }

  CardTable& table_;
  std::vector<Head> heads_;
  std::vector<Head> copies_;
  std::vector<RunningKernel> running_;
  SharedSpeeds shared_;
  std::vector<int> woken_;
  bool is_paced_ = false;
};

}  // namespace sublet::sim
