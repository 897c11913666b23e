// proxy/wake_signal.h
//
// How a coroutine on a loop waits for "something changed", whatever it is.
//
//   LoopTask<void> UntilAnswered() {
//     while (!answered_ && !client_gone_ && !timed_out_) co_await wake_.Wait();
//   }
//   void OnReadable() { answered_ = TryRead(); wake_.Notify(); }
//
// One coroutine waits, and looks itself at what has changed; whoever changes something calls
// Notify(). So there is no cancellation to pass down, no timer for each operation, and nothing to
// undo when two things happen at once. Notify() continues the coroutine there and then, which
// should be the last thing that its caller does; where nobody waits it does nothing.
//
// Waiting allocates nothing besides a coroutine's frame, which Asio recycles.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <optional>
#include <utility>

#include "http/event_loop.h"

namespace sublet::internal {

using LoopExecutor = asio::io_context::executor_type;
// A coroutine that knows its loop's type, which saves a virtual call at each step.
template <typename T>
using LoopTask = asio::awaitable<T, LoopExecutor>;

class WakeSignal {
 public:
  // REQUIRES: nobody waits.
  LoopTask<void> Wait() {
    return asio::async_initiate<const asio::use_awaitable_t<LoopExecutor>, void()>(
        [this](Waiter waiter) { waiter_.emplace(std::move(waiter)); }, kUseAwaitable);
  }
  void Notify() {
    if (!waiter_) return;
    Waiter waiter = std::move(*waiter_);
    waiter_.reset();
    std::move(waiter)();
  }

 private:
  using Waiter = asio::async_result<asio::use_awaitable_t<LoopExecutor>, void()>::handler_type;
  static constexpr asio::use_awaitable_t<LoopExecutor> kUseAwaitable{};
  std::optional<Waiter> waiter_;
};

}  // namespace sublet::internal
