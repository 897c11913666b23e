// measure/start_line.h
//
// Where the workers of a round wait for each other, start at one moment, and learn when all of them
// have seen enough.
//
// It is a page of shared memory without a name (memfd), so it goes with the last process that has
// it. Each runner has a place in it, and a place says how far its runner is:
//
//   on its way ──Arrive()──► running ──Pass()──► past        any ──LeaveOut()──► past
//
// Once nobody is on its way the race begins: whoever sees it first writes the common start time,
// by its own clock. Who is past goes on running until all are, so that nobody's last stretch is
// quieter than the others'. Places instead of counters, because a runner may die between any two
// instructions, and then the parent leaves it out.
//
//   parent                                     worker
//   line.Reset(4);  (tell the workers)         const auto start = line.Arrive(place, now);
//   line.LeaveOut(2);  // It has died.         while (!line.AllPast()) { work; ... line.Pass(place)
//   }
//
// Thread safety: each runner from one thread; the parent from one thread. Reset() only while no
// runner is in the line.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace sublet {

class StartLine {
 public:
  static constexpr int kRunnersMax = 512;  // An MPS server serves 60 at most; processes, memory.

  static Result<StartLine> Make();
  // The line behind a descriptor that was inherited.
  static Result<StartLine> Open(FileDescriptor fd);

  StartLine(StartLine&& other) noexcept;
  StartLine& operator=(StartLine&&) = delete;
  StartLine(const StartLine&) = delete;
  StartLine& operator=(const StartLine&) = delete;
  ~StartLine();

  int fd() const { return fd_.get(); }

  // --- The parent.
  void Reset(int runners);
  // The others go without this runner, from now on.
  void LeaveOut(int place);
  // Everybody stops as soon as they notice.
  void Abort();
  // Lets a runner in AwaitGo() go on.
  void Go();

  // --- A runner.
  // Waits until nobody is on its way. Returns the start time in nanoseconds of the runners' clock;
  // absent where the round was aborted.
  std::optional<std::int64_t> Arrive(int place, const std::function<std::int64_t()>& now);
  void Pass(int place);
  bool AllPast() const;  // Also once aborted.
  bool Aborted() const;
  void AwaitGo();

 private:
  struct Shared;
  StartLine(FileDescriptor fd, Shared* shared) : fd_(std::move(fd)), shared_(shared) {}
  static Result<StartLine> Map(FileDescriptor fd);
  void WakeAll();
  void WaitUnless(const std::function<bool()>& done);
  bool NobodyOnItsWay() const;

  FileDescriptor fd_;
  Shared* shared_;
};

}  // namespace sublet
