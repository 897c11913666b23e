#include "base/interrupt.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>

#include "base/check.h"
#include "base/clock.h"

namespace sublet {
namespace {

constexpr std::array<int, 3> kSignals = {SIGINT, SIGTERM, SIGHUP};
// Long for two copies of one Ctrl-C, short for a person who presses it again.
constexpr std::int64_t kSameInterruptNs = 500'000'000;

// What the handler touches; all lock-free, so that a signal may come at any instruction.
std::atomic<int> interrupt_signal = 0;
std::atomic<std::int64_t> interrupted_at_ns = 0;
std::atomic<int> interrupt_fd = -1;
static_assert(std::atomic<int>::is_always_lock_free &&
              std::atomic<std::int64_t>::is_always_lock_free);

void HandleInterrupt(int signal) {
  const int saved_errno = errno;
  const std::int64_t now = MonotonicNanoseconds();
  int none = 0;
  if (interrupt_signal.compare_exchange_strong(none, signal)) {
    interrupted_at_ns = now;
    const std::uint64_t one = 1;
    // It can't fail: the counter has room, and nobody reads it.
    static_cast<void>(::write(interrupt_fd, &one, sizeof one) == sizeof one);
  } else if (interrupted_at_ns != 0 && now - interrupted_at_ns >= kSameInterruptNs) {
    // The signal is blocked while this runs, and ends the program when it returns.
    ::signal(signal, SIG_DFL);
    ::raise(signal);
  }
  errno = saved_errno;
}

}  // namespace

InterruptScope::InterruptScope() {
  CHECK(interrupt_fd == -1);
  interrupt_signal = 0;
  interrupted_at_ns = 0;
  interrupt_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  CHECK(interrupt_fd >= 0);
  struct sigaction action {};
  action.sa_handler = HandleInterrupt;
  // Reads and writes go on; who waits in poll() is woken by the descriptor.
  action.sa_flags = SA_RESTART;
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    CHECK(::sigaction(kSignals[i], nullptr, &before_[i]) == 0);
    // What nohup or a shell's `&` made deaf stays so.
    if (before_[i].sa_handler == SIG_IGN) continue;
    CHECK(::sigaction(kSignals[i], &action, nullptr) == 0);
  }
}

InterruptScope::~InterruptScope() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
  ::close(interrupt_fd.exchange(-1));
  interrupt_signal = 0;
}

bool Interrupted() {
  return interrupt_signal != 0;
}

int InterruptSignal() {
  return interrupt_signal;
}

int InterruptFd() {
  return interrupt_fd;
}

}  // namespace sublet
