#include "card_clock.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace sublet::sim {
namespace {

// Less than this is rounding.
constexpr double kLeastNs = 0.5;

double LeftNow(const CardItem& item, std::int64_t now_ns) {
  return item.left - item.speed * static_cast<double>(now_ns - item.updated_ns);
}

void Add(std::atomic<double>& sum, double value) {
  // Only the lock's holder writes; others read without it.
  sum.store(sum.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
}

}  // namespace

void CardClock::Advance(std::int64_t real_ns) {
  for (;;) {
    if (table_.changed) {
      table_.changed = false;
      table_.next_ns = CollectHeads();
      table_.next_ns = std::min({table_.next_ns, RunPartitions(), RunCopies()});
      SetPower();
    }
    const std::int64_t limit = Limit(real_ns);
    if (table_.next_ns == kNever || table_.next_ns > limit) {
      // With nothing to do and nobody about to do something, the clock reads what the last knew.
      Pass(limit == kNever ? table_.idle_ns : limit);
      EndTimeWaits();
      return;
    }
    Pass(table_.next_ns);
    table_.changed = true;
    EndTimeWaits();
    CompleteDue();
  }
}

std::int64_t CardClock::Limit(std::int64_t real_ns) {
  std::int64_t limit = kNever;
  bool paced = false;
  ForEachProcess([&](const CardProcess& process) {
    if (process.keeps_time) {
      if (process.holds) limit = std::min(limit, process.local_ns);
    } else if (process.outstanding > 0) {
      paced = true;
    }
  });
  is_paced_ = false;
  if (!paced) return limit;
  const std::int64_t pace =
      std::max(table_.now_ns, table_.pace_virtual_ns + (real_ns - table_.pace_real_ns));
  is_paced_ = pace < limit;
  return std::min(limit, pace);
}

// ---- what could run -----------------------------------------------------------------------------

// Fills heads_ and copies_ with what is ready; returns when the next gets ready by itself.
std::int64_t CardClock::CollectHeads() {
  std::int64_t next_ns = kNever;
  bool again = true;
  while (again) {
    again = false;
    next_ns = kNever;
    heads_.clear();
    copies_.clear();
    ForEachProcess([&](CardProcess& process) {
      if (CollectFrom(process, next_ns)) again = true;
      if (process.waiting == 0) return;
      for (const CardWait& wait : process.waits) {
        if (wait.kind == WaitKind::kTime && !wait.over) next_ns = std::min(next_ns, wait.time_ns);
      }
    });
  }
  const auto place = [](const Head& head) { return head.partition; };
  if (!std::ranges::is_sorted(heads_, {}, place)) std::ranges::stable_sort(heads_, {}, place);
  return std::max(next_ns, table_.now_ns);
}

// Whether something was completed that takes no time, so that others may be ready now.
bool CardClock::CollectFrom(CardProcess& process, std::int64_t& next_ns) {
  bool completed = false;
  for (std::uint64_t bits = process.busy_streams; bits != 0; bits &= bits - 1) {
    CardStream& stream = process.streams[std::countr_zero(bits)];
    while (stream.head >= 0) {
      CardItem& item = process.items[stream.head];
      if (item.ready_ns > table_.now_ns) {
        next_ns = std::min(next_ns, item.ready_ns);
        break;
      }
      if (!MayStart(process, stream, item)) break;
      if (item.kind == ItemKind::kRecord || item.kind == ItemKind::kAwait) {
        const bool open = item.kind == ItemKind::kRecord ||
                          process.streams[item.awaited_stream].done >= item.awaited;
        if (!open) break;
        Complete(process, stream);
        completed = true;
        continue;
      }
      CardContext& context = process.contexts[stream.context];
      const int client = IndexOf(process) * kCardContextsMax + stream.context;
      if (item.kind == ItemKind::kKernel) {
        CardPartition& partition = table_.gpus[context.gpu].partitions[context.partition];
        heads_.push_back({&process, &item, &partition, &context, client});
      } else {
        copies_.push_back({&process, &item, nullptr, &context, client});
      }
      break;
    }
  }
  return completed;
}

// The default stream waits for all that was put into blocking streams before, and they for it.
bool CardClock::MayStart(const CardProcess& process, const CardStream& stream,
                         const CardItem& item) const {
  if (!stream.blocking && !stream.is_default) return true;
  for (std::uint64_t bits = process.busy_streams; bits != 0; bits &= bits - 1) {
    const CardStream& other = process.streams[std::countr_zero(bits)];
    if (&other == &stream || other.context != stream.context || other.head < 0) continue;
    const bool bound = stream.is_default ? other.blocking : other.is_default;
    if (bound && process.items[other.head].number < item.number) return false;
  }
  return true;
}

// ---- who runs, how fast -------------------------------------------------------------------------

std::int64_t CardClock::RunPartitions() {
  std::int64_t next_ns = kNever;
  for (CardGpu& gpu : table_.gpus) {
    if (!gpu.partitions[0].used) break;  // GPUs are numbered without gaps.
    for (CardPartition& partition : gpu.partitions) partition.sms_busy = partition.traffic = 0;
  }
  for (std::size_t first = 0; first < heads_.size();) {
    std::size_t last = first;
    while (last < heads_.size() && heads_[last].partition == heads_[first].partition) ++last;
    next_ns = std::min(next_ns, RunPartition(*heads_[first].partition, first, last));
    first = last;
  }
  return next_ns;
}

// Sets the partition's active group; false while nobody may run. `change_ns` is when that changes
// by itself.
bool CardClock::PickGroup(CardPartition& partition, std::size_t first, std::size_t last,
                          std::int64_t& change_ns) {
  const std::int64_t now = table_.now_ns;
  if (partition.stopped_ns > now) {
    change_ns = partition.stopped_ns;
    return false;
  }
  constexpr int kNone = std::numeric_limits<int>::max();
  bool active = false;
  int following = kNone;  // The next in the circle.
  int lowest = kNone;
  for (std::size_t i = first; i < last; ++i) {
    const int group = heads_[i].context->group;
    if (group == partition.active) {
      active = true;
      continue;
    }
    if (group > partition.active) following = std::min(following, group);
    lowest = std::min(lowest, group);
  }
  const bool others = lowest != kNone;
  if (following == kNone) following = lowest;
  const bool slice_is_over = others && partition.slice_end_ns != 0 && partition.slice_end_ns <= now;
  if (active && !slice_is_over) {
    if (!others) {
      partition.slice_end_ns = 0;
      return true;
    }
    if (partition.slice_end_ns == 0) partition.slice_end_ns = now + kSliceNs;
    change_ns = partition.slice_end_ns;
    return true;
  }
  const bool free = partition.active == 0;
  partition.active = following;
  partition.slice_end_ns = 0;
  if (free) return PickGroup(partition, first, last, change_ns);
  partition.stopped_ns = now + kSwitchNs;
  change_ns = partition.stopped_ns;
  return false;
}

std::int64_t CardClock::RunPartition(CardPartition& partition, std::size_t first,
                                     std::size_t last) {
  std::int64_t next_ns = kNever;
  const bool runs = PickGroup(partition, first, last, next_ns);
  running_.clear();
  for (std::size_t i = first; i < last; ++i) {
    const Head& head = heads_[i];
    if (!runs || head.context->group != partition.active) {
      SetSpeed(*head.item, 0);
      continue;
    }
    running_.push_back({head.client, head.context->sm_cap, head.item->work});
  }
  if (running_.empty()) return next_ns;
  const CardCapacity capacity{static_cast<double>(partition.facts.sm_count),
                              ReachableBandwidth(partition.facts)};
  ShareCard(running_, capacity, shared_);
  partition.sms_busy = shared_.sms_busy;
  partition.traffic = shared_.bytes_per_ns;
  std::size_t at = 0;
  for (std::size_t i = first; i < last; ++i) {
    if (heads_[i].context->group != partition.active) continue;
    next_ns = std::min(next_ns, SetSpeed(*heads_[i].item, shared_.speeds[at++]));
  }
  return next_ns;
}

std::int64_t CardClock::RunCopies() {
  std::int64_t next_ns = kNever;
  for (CardGpu& gpu : table_.gpus) {
    if (!gpu.partitions[0].used) break;
    gpu.bus_in = gpu.bus_out = 0;
  }
  for (const Head& head : copies_) {
    const auto sharers = std::ranges::count_if(copies_, [&](const Head& other) {
      return other.context->gpu == head.context->gpu && other.item->kind == head.item->kind;
    });
    const double speed = 1 / (head.item->work.full_ns * static_cast<double>(sharers));
    next_ns = std::min(next_ns, SetSpeed(*head.item, speed));
    CardGpu& gpu = table_.gpus[head.context->gpu];
    (head.item->kind == ItemKind::kCopyIn ? gpu.bus_in : gpu.bus_out) +=
        speed * head.item->work.bytes;
  }
  return next_ns;
}

// Returns when the item ends at that speed.
std::int64_t CardClock::SetSpeed(CardItem& item, double speed) {
  if (item.state == ItemState::kRunning) item.left = LeftNow(item, table_.now_ns);
  item.state = ItemState::kRunning;
  item.updated_ns = table_.now_ns;
  item.speed = speed;
  if (speed <= 0) return kNever;
  const double left_ns = std::max(0.0, item.left / speed - kLeastNs);
  return table_.now_ns + static_cast<std::int64_t>(std::ceil(left_ns));
}

void CardClock::SetPower() {
  for (CardGpu& gpu : table_.gpus) {
    if (!gpu.partitions[0].used) break;
    const CardFacts& whole = gpu.partitions[0].facts;
    double arithmetic = 0;
    double traffic = 0;
    for (const CardPartition& partition : gpu.partitions) {
      arithmetic += partition.sms_busy / whole.sm_count;
      traffic += partition.traffic / ReachableBandwidth(whole);
    }
    // A card that computes on all SMs, and one that streams at full bandwidth, both draw most of
    // what it may.
    const double activity = std::min(1.0, 0.8 * arithmetic + 0.6 * traffic);
    gpu.power_w = gpu.idle_w + activity * (gpu.busy_w - gpu.idle_w);
    gpu.is_busy = arithmetic > 0 || traffic > 0;
  }
}

// ---- time ---------------------------------------------------------------------------------------

void CardClock::Pass(std::int64_t to_ns) {
  if (to_ns <= table_.now_ns) return;
  const double passed = static_cast<double>(to_ns - table_.now_ns);
  for (CardGpu& gpu : table_.gpus) {
    if (!gpu.partitions[0].used) break;
    Add(gpu.energy_mj, gpu.power_w * passed * 1e-6);
    if (gpu.is_busy) Add(gpu.busy_ns, passed);
  }
  table_.now_ns = to_ns;
}

void CardClock::CompleteDue() {
  ForEachProcess([&](CardProcess& process) {
    for (std::uint64_t bits = process.busy_streams; bits != 0; bits &= bits - 1) {
      CardStream& stream = process.streams[std::countr_zero(bits)];
      if (stream.head < 0) continue;  // A fault has emptied it meanwhile.
      const CardItem& item = process.items[stream.head];
      if (item.state != ItemState::kRunning || item.speed <= 0) continue;
      if (LeftNow(item, table_.now_ns) <= kLeastNs * item.speed) Complete(process, stream);
    }
  });
}

// The first of the stream is done.
void CardClock::Complete(CardProcess& process, CardStream& stream) {
  CardItem& item = process.items[stream.head];
  const bool illegal = item.illegal;
  stream.done = item.number;
  stream.head = item.next;
  if (stream.head < 0) {
    stream.tail = -1;
    process.busy_streams &= ~(std::uint64_t{1} << (&stream - process.streams));
  }
  if (item.kind == ItemKind::kRecord && process.events[item.event].number == item.number) {
    process.events[item.event].time_ns = table_.now_ns;
  }
  if (item.kind == ItemKind::kKernel) process.sm_ns += item.work.sm_ns;
  item.state = ItemState::kFree;
  --process.outstanding;
  table_.changed = true;
  if (illegal) {
    constexpr int kIllegalAddress = 700;
    Break(process.contexts[stream.context], kIllegalAddress, kFaultPauseNs);
  }
  EndWaits(process);
}

bool CardClock::IsOver(const CardProcess& process, const CardWait& wait) const {
  switch (wait.kind) {
    case WaitKind::kStream:
      return process.streams[wait.index].done >= wait.number;
    case WaitKind::kContext:
      for (const CardStream& stream : process.streams) {
        const bool pending = stream.used && stream.context == wait.index && stream.head >= 0;
        if (pending && process.items[stream.head].number <= wait.number) return false;
      }
      return true;
    case WaitKind::kTime:
      return table_.now_ns >= wait.time_ns;
    case WaitKind::kNone:
      break;
  }
  return true;
}

void CardClock::EndWaits(CardProcess& process) {
  int left = process.waiting;
  bool ended = false;
  for (CardWait& wait : process.waits) {
    if (left == 0) break;
    if (wait.kind == WaitKind::kNone) continue;
    --left;
    if (wait.over || !IsOver(process, wait)) continue;
    wait.over = ended = true;
    if (!process.keeps_time) continue;
    // Whoever comes when all is done finds it so; whoever waited must wake up first.
    const std::int64_t price = wait.kind == WaitKind::kTime ? 0 : kWakeNs;
    if (table_.now_ns > process.local_ns) process.local_ns = table_.now_ns + price;
    process.holds = process.holds || process.held;
  }
  if (!ended) return;
  process.wake.fetch_add(1);
  woken_.push_back(IndexOf(process));
}

void CardClock::EndTimeWaits() {
  ForEachProcess([&](CardProcess& process) {
    if (process.waiting > 0) EndWaits(process);
  });
}

// ---- changes from outside -----------------------------------------------------------------------

void CardClock::Submit(CardProcess& process, const CardItem& item) {
  int index = process.free_hint;
  while (process.items[index].state != ItemState::kFree) index = (index + 1) % kCardItemsMax;
  process.free_hint = (index + 1) % kCardItemsMax;
  CardItem& slot = process.items[index];
  slot = item;
  slot.state = ItemState::kQueued;
  slot.next = -1;
  slot.number = ++process.last_number;
  CardStream& stream = process.streams[item.stream];
  stream.last = slot.number;
  if (item.kind == ItemKind::kRecord) {
    process.events[item.event].stream = item.stream;
    process.events[item.event].number = slot.number;
  }
  ++process.outstanding;
  if (stream.tail >= 0) {
    process.items[stream.tail].next = index;
  } else {
    stream.head = index;
    process.busy_streams |= std::uint64_t{1} << item.stream;
    table_.changed = true;
  }
  stream.tail = index;
}

void CardClock::Break(const CardContext& context, int code, std::int64_t pause_ns) {
  const int gpu = context.gpu;
  const int group = context.group;
  ForEachProcess([&](CardProcess& process) {
    for (int i = 0; i < kCardContextsMax; ++i) {
      const CardContext& other = process.contexts[i];
      const bool hit = other.used && other.gpu == gpu && other.group == group;
      if (hit && other.error == 0) BreakOne(process, i, code, pause_ns);
    }
  });
}

void CardClock::BreakOne(CardProcess& process, int index, int code, std::int64_t pause_ns) {
  CardContext& context = process.contexts[index];
  CardPartition& partition = table_.gpus[context.gpu].partitions[context.partition];
  partition.stopped_ns = std::max(partition.stopped_ns, table_.now_ns + pause_ns);
  // Its process reads it without the lock.
  std::atomic_ref(context.error).store(code, std::memory_order_relaxed);
  Drop(process, index);
}

void CardClock::Drop(CardProcess& process, int context) {
  for (CardStream& stream : process.streams) {
    if (!stream.used || stream.context != context) continue;
    for (int index = stream.head; index >= 0; index = process.items[index].next) {
      process.items[index].state = ItemState::kFree;
      --process.outstanding;
    }
    stream.head = stream.tail = -1;
    stream.done = stream.last;
    process.busy_streams &= ~(std::uint64_t{1} << (&stream - process.streams));
  }
  table_.changed = true;
  EndWaits(process);
}

void CardClock::Forget(CardProcess& process) {
  const int index = IndexOf(process);
  for (int i = 0; i < kCardContextsMax; ++i) {
    if (process.contexts[i].used) Drop(process, i);
  }
  process.used = process.holds = process.keeps_time = false;
  table_.used_processes[index / 64] &= ~(std::uint64_t{1} << index % 64);
  table_.changed = true;
}

}  // namespace sublet::sim
