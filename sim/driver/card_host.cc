#include "card_host.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <climits>
#include <ctime>

#include "base/check.h"
#include "base/files.h"
#include "sim_state.h"

namespace sublet::sim {
namespace {

// How often someone who sleeps looks whether those it waits for are still alive.
constexpr std::int64_t kLookAfterNs = 20'000'000;
// Sleeping and waking takes the kernel about this long; a paced wait that is shorter spins.
constexpr std::int64_t kSpinNs = 150'000;

std::int64_t MachineNs() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

long Futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value,
           const timespec* timeout) {
  return ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), operation, value, timeout,
                   nullptr, 0);
}

const Board* BoardOf(const SimGpu& gpu) {
  const Result<const Board*> board = BuiltInBoards().Find(gpu.facts.board);
  return board ? *board : nullptr;
}

// What an earlier life of the file has counted stays, as counters of a card do.
void StartAfresh(CardTable& table, const SimNode& node) {
  table.magic = 0;
  pthread_mutexattr_t attributes;
  ::pthread_mutexattr_init(&attributes);
  ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  ::pthread_mutex_init(&table.mutex, &attributes);
  ::pthread_mutexattr_destroy(&attributes);
  std::ranges::fill(table.used_processes, 0);
  std::ranges::fill(table.servers, MpsServerEntry{});
  std::ranges::fill(table.daemons, MpsDaemonEntry{});
  table.pace_real_ns = MachineNs();
  table.pace_virtual_ns = table.now_ns;
  table.idle_ns = table.now_ns;
  table.changed = true;
  for (std::size_t i = 0; i < node.gpus.size(); ++i) {
    const SimGpu& gpu = node.gpus[i];
    CardGpu& card = table.gpus[i];
    for (CardPartition& partition : card.partitions) partition = {};
    const PowerFigures power = PowerOf(gpu);
    card.idle_w = card.power_w = power.idle_w;
    card.busy_w = power.busy_w;
    card.is_busy = false;
    card.partitions[0].used = true;
    card.partitions[0].facts = FactsOf(BoardOf(gpu), gpu.facts.sm_count.value_or(132));
  }
  table.size = sizeof(CardTable);
  table.magic = kCardsMagic;
}

}  // namespace

// The data sheets' limits, for those boards of which we know one; any other is taken for a card in
// a PCIe slot.
PowerFigures PowerOf(const SimGpu& gpu) {
  struct Row {
    std::string_view board;
    PowerFigures power;
  };
  constexpr Row kRows[] = {{"h200", {75, 700}},   {"h100", {70, 700}}, {"b200", {120, 1000}},
                           {"b300", {130, 1200}}, {"a100", {55, 400}}, {"a30", {30, 165}},
                           {"l40", {35, 300}},    {"l4", {17, 72}}};
  for (const Row& row : kRows) {
    if (std::string_view(gpu.facts.board).starts_with(row.board)) return row.power;
  }
  return {40, 300};
}

std::string CardsPath(const std::string& folder, const SimNode& node) {
  return fmt::format("{}/{}.cards", folder, node.key);
}

Result<std::unique_ptr<CardHost>> CardHost::Open(const std::string& folder, const SimNode& node) {
  const std::string path = CardsPath(folder, node);
  const int file = OpenStateFile(path, O_RDWR);
  if (file < 0) return FailFromErrno(errno, fmt::format("opening {}", path));
  const auto fail = [&](std::string_view what) {
    auto error = FailFromErrno(errno, fmt::format("{} {}", what, path));
    ::close(file);
    return error;
  };
  const bool alone = ::flock(file, LOCK_EX | LOCK_NB) == 0;
  if (!alone && ::flock(file, LOCK_SH) != 0) return fail("locking");
  struct stat status {};
  if (::fstat(file, &status) != 0) return fail("looking at");
  // A file of another version's is emptied; its readers map it anew or not at all.
  const bool other_size = status.st_size != static_cast<off_t>(sizeof(CardTable));
  if (alone && other_size) {
    if (::ftruncate(file, 0) != 0 || ::ftruncate(file, sizeof(CardTable)) != 0) {
      return fail("sizing");
    }
  } else if (other_size) {
    ::close(file);
    return Fail(ErrorCode::kConflict, fmt::format("another version is using {}", path));
  }
  void* const map = ::mmap(nullptr, sizeof(CardTable), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (map == MAP_FAILED) return fail("mapping");
  auto* const table = static_cast<CardTable*>(map);
  if (alone) {
    StartAfresh(*table, node);
    if (::flock(file, LOCK_SH) != 0) return fail("locking");
  }
  return std::unique_ptr<CardHost>(new CardHost(file, table));
}

CardHost::~CardHost() {
  ::munmap(table_, sizeof(CardTable));
  ::close(file_);
}

// ---- the lock -----------------------------------------------------------------------------------

void CardHost::Lock() {
  const int code = ::pthread_mutex_lock(&table_->mutex);
  if (code == EOWNERDEAD) {
    Mend();
    ::pthread_mutex_consistent(&table_->mutex);
  } else {
    CHECK(code == 0);
  }
}

void CardHost::Unlock() {
  const std::vector<int> woken = clock_.woken();
  clock_.woken().clear();
  ::pthread_mutex_unlock(&table_->mutex);
  for (const int index : woken) {
    CardProcess& process = table_->processes[index];
    if (process.sleepers.load() > 0) Futex(process.wake, FUTEX_WAKE, INT_MAX, nullptr);
  }
}

// Whoever died within the lock may have left a list between two of its states. The items
// themselves say what the lists must be.
void CardHost::Mend() {
  clock_.ForEachProcess([](CardProcess& process) {
    process.busy_streams = 0;
    process.outstanding = 0;
    for (CardStream& stream : process.streams) stream.head = stream.tail = -1;
    std::vector<int> order;
    for (int i = 0; i < kCardItemsMax; ++i) {
      CardItem& item = process.items[i];
      const bool live = item.state != ItemState::kFree && item.number != 0 &&
                        item.number > process.streams[item.stream].done;
      if (live) order.push_back(i);
      if (!live) item.state = ItemState::kFree;
    }
    std::ranges::sort(order, {}, [&](int i) { return process.items[i].number; });
    for (const int i : order) {
      CardItem& item = process.items[i];
      CardStream& stream = process.streams[item.stream];
      item.next = -1;
      (stream.tail >= 0 ? process.items[stream.tail].next : stream.head) = i;
      stream.tail = i;
      stream.last = std::max(stream.last, item.number);
      process.last_number = std::max(process.last_number, item.number);
      process.busy_streams |= std::uint64_t{1} << item.stream;
      ++process.outstanding;
    }
  });
  table_->changed = true;
}

// ---- processes ----------------------------------------------------------------------------------

CardProcess* CardHost::Attach() {
  const int pid = ::getpid();
  if (CardProcess* const process = FindProcess(pid)) return process;
  Reap();
  for (int i = 0; i < kCardProcessesMax; ++i) {
    CardProcess& process = table_->processes[i];
    if (process.used) continue;
    // What an earlier owner left; the two atomics stay, since a waker may still hold their address.
    process.keeps_time = process.holds = process.held = false;
    process.local_ns = 0;
    process.begun_ns = table_->now_ns;
    process.sm_ns = 0;
    process.waiting = process.outstanding = process.free_hint = 0;
    process.last_number = process.busy_streams = 0;
    std::ranges::fill(process.contexts, CardContext{});
    std::ranges::fill(process.streams, CardStream{});
    std::ranges::fill(process.waits, CardWait{});
    for (CardEvent& event : process.events) event.used = false;
    for (CardItem& item : process.items) item.state = ItemState::kFree;
    process.sleepers = 0;
    process.pid = pid;
    process.started = StartTimeOf(pid);
    process.used = true;
    table_->used_processes[i / 64] |= std::uint64_t{1} << i % 64;
    return &process;
  }
  return nullptr;
}

CardProcess* CardHost::FindProcess(int pid) {
  CardProcess* found = nullptr;
  clock_.ForEachProcess([&](CardProcess& process) {
    if (process.pid != pid) return;
    if (StartTimeOf(pid) == process.started) {
      found = &process;
    } else {
      Mourn(process);
      clock_.Forget(process);  // An earlier process of that number.
    }
  });
  return found;
}

void CardHost::Detach(CardProcess& process) {
  if (process.keeps_time) table_->idle_ns = std::max(table_->idle_ns, process.local_ns);
  clock_.Forget(process);
  Advance();
}

void CardHost::Reap() {
  clock_.ForEachProcess([&](CardProcess& process) {
    if (StartTimeOf(process.pid) == process.started) return;
    Mourn(process);
    clock_.Forget(process);
  });
}

void CardHost::BreakClientsOf(int server_pid, int code) {
  clock_.ForEachProcess([&](CardProcess& process) {
    for (const CardContext& context : process.contexts) {
      if (!context.used || context.server_pid != server_pid || context.error != 0) continue;
      clock_.Break(context, code, 0);
    }
  });
}

void CardHost::MournClient(int pid) {
  clock_.ForEachProcess([&](const CardProcess& process) {
    if (process.pid == pid) Mourn(process);
  });
}

// Observed: within a kernel of 3 s always, within one of 0.2 ms never. What lies between is a
// guess.
void CardHost::Mourn(const CardProcess& process) {
  constexpr double kHarmlessNs = 100e6;
  constexpr int kIllegalAddress = 700;
  for (const CardItem& item : process.items) {
    if (item.state != ItemState::kRunning || item.kind != ItemKind::kKernel) continue;
    const CardContext& context = process.contexts[process.streams[item.stream].context];
    const bool is_client = context.used && context.server_pid != 0 && context.error == 0;
    if (is_client && item.left > kHarmlessNs * item.speed) {
      clock_.Break(context, kIllegalAddress, kFaultPauseNs);
      return;  // Its items are gone.
    }
  }
}

// ---- time ---------------------------------------------------------------------------------------

// While nobody keeps time, the clock goes as the machine's does, work or no work.
void CardHost::FollowMachine() {
  bool kept = false;
  bool outstanding = false;
  clock_.ForEachProcess([&](const CardProcess& process) {
    kept = kept || process.keeps_time;
    outstanding = outstanding || (!process.keeps_time && process.outstanding > 0);
  });
  if (outstanding) return;
  const std::int64_t now = MachineNs();
  if (!kept) {
    const std::int64_t due = table_->pace_virtual_ns + (now - table_->pace_real_ns);
    table_->idle_ns = std::max(table_->idle_ns, due);
    clock_.Advance(now);
  }
  table_->pace_real_ns = now;
  table_->pace_virtual_ns = table_->now_ns;
}

void CardHost::Advance() {
  clock_.Advance(MachineNs());
}

void CardHost::Follow(const CardProcess& process) {
  if (!process.keeps_time) FollowMachine();
  Advance();
}

void CardHost::Submit(CardProcess& process, const CardItem& item) {
  while (process.outstanding >= kCardItemsMax) {
    // A real driver blocks, too, until something of what was launched is done.
    const CardItem* oldest = nullptr;
    for (const CardItem& one : process.items) {
      if (oldest == nullptr || one.number < oldest->number) oldest = &one;
    }
    Wait(process, {.kind = WaitKind::kStream, .index = oldest->stream, .number = oldest->number});
  }
  if (!process.keeps_time) FollowMachine();
  CardItem ready = item;
  ready.ready_ns = NowOf(process);
  clock_.Submit(process, ready);
  if (!process.keeps_time) Advance();
}

std::int64_t CardHost::NowOf(const CardProcess& process) const {
  return process.keeps_time ? std::max(process.local_ns, table_->now_ns) : table_->now_ns;
}

void CardHost::Charge(CardProcess& process, std::int64_t price_ns) {
  if (process.keeps_time) process.local_ns = NowOf(process) + price_ns;
}

void CardHost::Wait(CardProcess& process, CardWait wait) {
  if (!process.keeps_time) FollowMachine();
  const auto place = std::ranges::find(process.waits, WaitKind::kNone, &CardWait::kind);
  CHECK(place != std::end(process.waits));
  *place = wait;
  ++process.waiting;
  // For a moment to come a process waits with its clock held: it is about to go on then.
  const bool holds_on = wait.kind == WaitKind::kTime;
  if (process.waiting == 1) process.held = process.holds;
  if (!holds_on) process.holds = false;
  if (holds_on) table_->changed = true;
  place->over = clock_.IsOver(process, *place);
  std::int64_t sleep_ns = 0;
  while (!place->over) {
    const std::int64_t real_ns = MachineNs();
    clock_.Advance(real_ns);
    if (place->over) break;
    sleep_ns = kLookAfterNs;
    if (clock_.is_paced() && table_->next_ns != kNever) {
      const std::int64_t due = table_->pace_real_ns + table_->next_ns - table_->pace_virtual_ns;
      sleep_ns = std::clamp<std::int64_t>(due - real_ns, 0, kLookAfterNs);
    }
    const std::uint32_t seen = process.wake.load();
    Unlock();
    SleepUntilWoken(process, seen, sleep_ns);
    Lock();
    if (sleep_ns == kLookAfterNs && process.wake.load() == seen) Reap();
  }
  place->kind = WaitKind::kNone;
  place->over = false;
  if (--process.waiting == 0 && process.held) process.holds = true;
}

void CardHost::SleepUntilWoken(CardProcess& process, std::uint32_t seen, std::int64_t sleep_ns) {
  if (sleep_ns <= kSpinNs) {
    ::sched_yield();
    return;
  }
  const std::int64_t asleep_ns = sleep_ns - (sleep_ns < kLookAfterNs ? kSpinNs : 0);
  const timespec timeout{.tv_sec = asleep_ns / 1'000'000'000, .tv_nsec = asleep_ns % 1'000'000'000};
  process.sleepers.fetch_add(1);
  Futex(process.wake, FUTEX_WAIT, seen, &timeout);
  process.sleepers.fetch_sub(1);
}

}  // namespace sublet::sim
