#include "measure/start_line.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/files.h"

namespace sublet {
namespace {

enum Stage : std::uint32_t { kOnItsWay, kRunning, kPast };

}  // namespace

// All lock-free, so that they work between processes.
struct StartLine::Shared {
  // Counts changes that somebody may be waiting for; the word of the futex.
  std::atomic<std::uint32_t> changes = 0;
  std::atomic<std::uint32_t> aborted = 0;
  std::atomic<std::uint32_t> go = 0;
  std::atomic<std::int32_t> runners = 0;
  std::atomic<std::int64_t> start_ns = 0;  // 0: not started.
  std::atomic<std::uint32_t> stages[kRunnersMax] = {};

  static_assert(std::atomic<std::uint32_t>::is_always_lock_free &&
                std::atomic<std::int64_t>::is_always_lock_free);
};

Result<StartLine> StartLine::Make() {
  FileDescriptor fd(::memfd_create("sublet-start-line", MFD_CLOEXEC));
  if (!fd.valid()) return FailFromErrno(errno, "making shared memory");
  if (::ftruncate(fd.get(), sizeof(Shared)) != 0) {
    return FailFromErrno(errno, "sizing shared memory");
  }
  ASSIGN_OR_RETURN(StartLine line, Map(std::move(fd)));
  new (line.shared_) Shared;
  return line;
}

Result<StartLine> StartLine::Open(FileDescriptor fd) {
  return Map(std::move(fd));
}

Result<StartLine> StartLine::Map(FileDescriptor fd) {
  void* const memory =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) return FailFromErrno(errno, "mapping shared memory");
  return StartLine(std::move(fd), static_cast<Shared*>(memory));
}

StartLine::StartLine(StartLine&& other) noexcept
    : fd_(std::move(other.fd_)), shared_(std::exchange(other.shared_, nullptr)) {}

StartLine::~StartLine() {
  if (shared_ != nullptr) ::munmap(shared_, sizeof(Shared));
}

void StartLine::Reset(int runners) {
  CHECK(runners >= 0 && runners <= kRunnersMax);
  for (auto& stage : shared_->stages) stage = kOnItsWay;
  shared_->runners = runners;
  shared_->aborted = 0;
  shared_->go = 0;
  shared_->start_ns = 0;
}

void StartLine::LeaveOut(int place) {
  shared_->stages[place] = kPast;
  WakeAll();
}

void StartLine::Abort() {
  shared_->aborted = 1;
  WakeAll();
}

void StartLine::Go() {
  shared_->go = 1;
  WakeAll();
}

std::optional<std::int64_t> StartLine::Arrive(int place, const std::function<std::int64_t()>& now) {
  CHECK(place >= 0 && place < shared_->runners);
  std::uint32_t on_its_way = kOnItsWay;
  // It stays past where the parent left it out meanwhile.
  shared_->stages[place].compare_exchange_strong(on_its_way, kRunning);
  WakeAll();
  WaitUnless([&] { return shared_->start_ns != 0 || Aborted() || NobodyOnItsWay(); });
  if (Aborted()) return std::nullopt;
  // One exchange decides who writes the time, so that a runner which dies here leaves either no
  // time, which another then writes, or a whole one.
  std::int64_t start = 0;
  const std::int64_t mine = now();
  if (shared_->start_ns.compare_exchange_strong(start, mine)) start = mine;
  return start;
}

void StartLine::Pass(int place) {
  shared_->stages[place] = kPast;
}

bool StartLine::AllPast() const {
  if (Aborted()) return true;
  const int runners = shared_->runners.load(std::memory_order_relaxed);
  for (int i = 0; i < runners; ++i) {
    if (shared_->stages[i].load(std::memory_order_relaxed) != kPast) return false;
  }
  return true;
}

bool StartLine::Aborted() const {
  return shared_->aborted.load(std::memory_order_relaxed) != 0;
}

void StartLine::AwaitGo() {
  WaitUnless([&] { return shared_->go != 0 || Aborted(); });
}

bool StartLine::NobodyOnItsWay() const {
  const int runners = shared_->runners;
  for (int i = 0; i < runners; ++i) {
    if (shared_->stages[i] == kOnItsWay) return false;
  }
  return true;
}

void StartLine::WakeAll() {
  ++shared_->changes;
  ::syscall(SYS_futex, &shared_->changes, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void StartLine::WaitUnless(const std::function<bool()>& done) {
  while (true) {
    // Read before the question, so that a change after it makes the wait return at once.
    const std::uint32_t seen = shared_->changes;
    if (done()) return;
    ::syscall(SYS_futex, &shared_->changes, FUTEX_WAIT, seen, nullptr, nullptr, 0);
  }
}

}  // namespace sublet
