// base/clock.h
//
// The machine's clocks, for those who wait and those who tell: the only place where the libraries
// read them.
//
//   const Deadline deadline = Deadline::In(2.5);
//   while (!deadline.Passed()) { ... poll(fds, count, deadline.PollMilliseconds()) ... }
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstdint>
#include <string>

namespace sublet {

// The time of day, for people and files: "2026-11-21T10:00:00.123Z". It may jump.
std::string UtcMilliseconds();

// Nanoseconds of CLOCK_MONOTONIC, which is one clock for all processes of a machine.
std::int64_t MonotonicNanoseconds();

// A moment until which it is worth waiting.
class Deadline {
 public:
  // Seconds from now; a negative number has passed already.
  static Deadline In(double seconds);
  static Deadline Never();

  bool Passed() const;
  double SecondsLeft() const;  // 0 once it has passed.
  // For poll(): rounded up, so that a wait never ends just before the deadline; -1 for Never().
  int PollMilliseconds() const;

  // The earlier of the two.
  friend Deadline Earlier(Deadline a, Deadline b) { return a.at_ns_ < b.at_ns_ ? a : b; }

 private:
  explicit Deadline(std::int64_t at_ns) : at_ns_(at_ns) {}
  std::int64_t at_ns_;
};

}  // namespace sublet
