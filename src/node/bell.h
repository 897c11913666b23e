// node/bell.h
//
// How a coroutine of the node waits for "something has changed" and for a time at once.
//
//   Task<void> Keeper::Live() {
//     while (wanted_) {
//       if (ended_) co_await StartAgain();
//       co_await bell_.Wait(next_probe_);      // Until somebody rings, or that time.
//     }
//   }
//
// Between two co_awaits nothing else runs, so who looks at the state and then waits misses no ring.
// A Bell has one waiter, a Broadcast any number. Both must outlive the wait.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <set>
#include <vector>

#include "base/result.h"
#include "http/event_loop.h"

namespace sublet {

using Moment = std::chrono::steady_clock::time_point;
inline constexpr Moment kNever = Moment::max();
Moment Clock();
// Seconds from now.
Moment MomentIn(double seconds);
double SecondsSince(Moment then);

class Bell {
 public:
  explicit Bell(asio::io_context& loop) : timer_(loop) {}

  void Ring();
  // Returns at `until`, or as soon as the bell rings; at once where it rang since the last wait.
  Task<void> Wait(Moment until = kNever);

 private:
  asio::steady_timer timer_;
  bool rung_ = false;
};

// Wakes everybody who waits at that moment; who comes later waits for the next one.
class Broadcast {
 public:
  explicit Broadcast(asio::io_context& loop) : loop_(loop) {}

  void Announce();
  Task<void> Next(Moment until = kNever);

 private:
  asio::io_context& loop_;
  std::set<Bell*> waiting_;
};

// Runs all of them side by side and returns when the last is done: the first that failed, or
// success.
Task<Status> AllOf(asio::io_context& loop, std::vector<Task<Status>> tasks);

}  // namespace sublet
