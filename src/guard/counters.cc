#include "guard/counters.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "guard/observation.h"

namespace sublet::guard {
namespace {

struct ThreadState {
  int depth;                    // Of driver functions around us.
  bool waits_for_its_own;       // It has ended a burst of its own launches.
  std::uint64_t launches;       // Since its last wait.
  std::uint64_t offered;        // Of them, those in unclaimed_launches.
  std::uint64_t claims;         // Value of the global one when it last offered.
  std::uint64_t work_begun_ns;  // First work since its last wait; 0: none.
};

// Initial-exec: a preloaded library has its place from the start, so that reaching it neither calls
// nor allocates.
[[gnu::tls_model("initial-exec")]] thread_local ThreadState thread_state;

enum State : int { kUnknown, kOpening, kReady, kNobody };
std::atomic<int> state{kUnknown};
std::atomic<Observation*> observation{nullptr};
std::atomic<ObservedProcess*> self{nullptr};

// Launches of threads that never wait themselves; some other thread waits for them.
std::atomic<std::uint64_t> unclaimed_launches{0};
std::atomic<std::uint64_t> unclaimed_begun_ns{0};
// How often a thread claimed all of them. It tells those who launched that their burst is over.
std::atomic<std::uint64_t> claims{0};

std::uint64_t Now() {
  timespec time;
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(time.tv_nsec);
}

void Add(std::atomic<std::uint64_t>& counter, std::uint64_t amount) {
  counter.fetch_add(amount, std::memory_order_relaxed);
}

// A child of fork() is a process of its own. It keeps the mapping, and its only thread begins anew.
void AfterForkInChild() {
  self.store(nullptr, std::memory_order_relaxed);
  unclaimed_launches.store(0, std::memory_order_relaxed);
  unclaimed_begun_ns.store(0, std::memory_order_relaxed);
  thread_state = {};
  if (state.load() != kNobody) state.store(kUnknown);
}

Observation* Map() {
  const char* const path = ::getenv(kObservationVariable);
  if (path == nullptr || *path == '\0') return nullptr;
  const int fd = ::open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return nullptr;
  struct stat status;
  void* memory = MAP_FAILED;
  if (::fstat(fd, &status) == 0 && status.st_size >= static_cast<off_t>(kObservationBytes)) {
    memory = ::mmap(nullptr, kObservationBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  ::close(fd);
  if (memory == MAP_FAILED) return nullptr;
  auto* const mapped = static_cast<Observation*>(memory);
  return mapped->magic == kObservationMagic ? mapped : nullptr;
}

ObservedProcess* TakePlace(Observation& all) {
  const auto pid = static_cast<std::int32_t>(::getpid());
  for (ObservedProcess& place : all.processes) {
    std::int32_t nobody = 0;
    // A program that replaced itself by exec() has the process id that it had, and goes on there.
    if (place.pid.load() == pid || place.pid.compare_exchange_strong(nobody, pid)) return &place;
  }
  all.processes_lost.fetch_add(1);
  return nullptr;
}

ObservedProcess* Open() {
  int expected = kUnknown;
  if (!state.compare_exchange_strong(expected, kOpening)) return nullptr;
  const int error_before = errno;
  Observation* all = observation.load();
  if (all == nullptr) {
    all = Map();
    observation.store(all);
    if (all != nullptr) ::pthread_atfork(nullptr, nullptr, AfterForkInChild);
  }
  ObservedProcess* const place = all == nullptr ? nullptr : TakePlace(*all);
  self.store(place);
  state.store(place == nullptr ? kNobody : kReady);
  errno = error_before;
  return place;
}

// For threads that come while another one opens, which takes microseconds. The limit is for a
// signal handler that interrupted that very thread: it goes on uncounted.
ObservedProcess* WaitUntilOpened() {
  constexpr int kYieldsMax = 1000;
  for (int i = 0; i < kYieldsMax && state.load(std::memory_order_acquire) == kOpening; ++i) {
    ::sched_yield();
  }
  return self.load(std::memory_order_relaxed);
}

ObservedProcess* Self() {
  switch (state.load(std::memory_order_acquire)) {
    case kReady:
      return self.load(std::memory_order_relaxed);
    case kUnknown:
      if (ObservedProcess* const opened = Open()) return opened;
      return WaitUntilOpened();
    case kOpening:
      return WaitUntilOpened();
    default:
      return nullptr;
  }
}

// Begins anew where another thread has waited for what this one offered, and says whether it has.
bool ForgetWhatOthersClaimed() {
  if (thread_state.offered == 0) return false;
  if (claims.load(std::memory_order_acquire) == thread_state.claims) return false;
  thread_state.launches = 0;
  thread_state.offered = 0;
  thread_state.work_begun_ns = 0;
  return true;
}

// This thread waited for what it had offered to others.
void TakeBack(std::uint64_t offered) {
  std::uint64_t there = unclaimed_launches.load(std::memory_order_relaxed);
  std::uint64_t left = 0;
  do {
    left = there > offered ? there - offered : 0;
  } while (!unclaimed_launches.compare_exchange_weak(there, left, std::memory_order_relaxed));
  if (left == 0) unclaimed_begun_ns.store(0, std::memory_order_relaxed);
}

void EndBurst(ObservedProcess& process, std::uint64_t begun_ns) {
  const std::uint64_t now = Now();
  Add(process.durations[DurationBucket(now > begun_ns ? now - begun_ns : 0)], 1);
  process.last_burst_end_ns.store(now, std::memory_order_relaxed);
  process.bursts.fetch_add(1, std::memory_order_release);
}

}  // namespace

DriverCall::DriverCall() : counts_(thread_state.depth++ == 0 && Self() != nullptr) {}

DriverCall::~DriverCall() {
  --thread_state.depth;
}

void WorkBegins() {
  ForgetWhatOthersClaimed();
  if (thread_state.work_begun_ns == 0) thread_state.work_begun_ns = Now();
}

void Launched() {
  ObservedProcess* const process = Self();
  if (process == nullptr) return;
  Add(process->launches, 1);
  // Claimed while the driver launched: the burst before is over, and this work begins another.
  if (ForgetWhatOthersClaimed()) thread_state.work_begun_ns = Now();
  ++thread_state.launches;
  if (thread_state.waits_for_its_own) return;
  // Before the offer: a claim that comes between the two leaves the offer unclaimed, and the next
  // wait of any thread finds it. The other way round this thread would count it a second time.
  thread_state.claims = claims.load(std::memory_order_acquire);
  std::uint64_t none = 0;
  unclaimed_begun_ns.compare_exchange_strong(none, thread_state.work_begun_ns);
  Add(unclaimed_launches, 1);
  ++thread_state.offered;
}

void Waited() {
  ObservedProcess* const process = Self();
  if (process == nullptr) return;
  Add(process->waits, 1);
  ForgetWhatOthersClaimed();
  if (thread_state.launches > 0) {
    EndBurst(*process, thread_state.work_begun_ns);
    if (thread_state.offered > 0) TakeBack(thread_state.offered);
    thread_state.waits_for_its_own = true;
  } else if (unclaimed_launches.exchange(0, std::memory_order_relaxed) > 0) {
    // This thread waits for what others launched.
    const std::uint64_t begun = unclaimed_begun_ns.exchange(0, std::memory_order_relaxed);
    claims.fetch_add(1, std::memory_order_release);
    EndBurst(*process, begun != 0 ? begun : Now());
  }
  thread_state.launches = 0;
  thread_state.offered = 0;
  thread_state.work_begun_ns = 0;
}

void Copied(Traffic traffic) {
  ObservedProcess* const process = Self();
  if (process == nullptr) return;
  if (traffic.to_device > 0) Add(process->bytes_to_device, traffic.to_device);
  if (traffic.from_device > 0) Add(process->bytes_from_device, traffic.from_device);
}

void ContextMade() {
  ObservedProcess* const process = Self();
  if (process == nullptr) return;
  if (process->contexts.fetch_add(1) > 0) return;
  const std::uint32_t hold_ms = observation.load()->hold_ms.load();
  if (hold_ms == 0) return;
  process->context_state.store(kContextHeld);
  const int error_before = errno;
  const timespec step = {0, 1'000'000};
  const std::uint64_t until = Now() + std::uint64_t{hold_ms} * 1'000'000u;
  while (process->context_state.load() == kContextHeld && Now() < until) {
    ::nanosleep(&step, nullptr);
  }
  process->context_state.store(kContextGo);
  errno = error_before;
}

}  // namespace sublet::guard
