// http/event_loop.h
//
// The words that code on an event loop has in common.
//
// The loop is a boost::asio::io_context that one thread runs; all state belongs to that thread, so
// none of it has a lock. What takes long (the driver, a child that starts, a file on a slow disk)
// runs on a pool of threads, and its value comes back to the loop:
//
//   Task<void> Watch(asio::thread_pool& pool, Driver& driver, Ledger& ledger) {
//     auto look = [&driver] { return driver.Look(); };
//     Result<Readings> readings = co_await OnPool(pool, look);  // The loop goes on meanwhile.
//     if (readings) ledger.Take(*readings);                      // On the loop's thread again.
//   }
//   asio::co_spawn(loop, Watch(pool, driver, ledger), EndsTheProgram);
//
// What may surprise:
// - A lambda that is itself a coroutine must outlive its run, captures included. Give coroutines
//   parameters instead of captures.
// - GCC 12 destroys twice what is made by braces inside an expression that has a co_await in it:
//   `co_await Say(Word{"a", "b"})` frees both strings two times. Give such a value a name first.
// - What is between two co_awaits runs without a break; after a co_await everything may have
//   changed.
// - A coroutine that is cancelled gets boost::system::system_error out of its co_await. Work on
//   the pool isn't cancelled: its co_await returns when the work is done.
//
// Thread safety: OnPool() and WaitReadable() on the loop's thread.
#pragma once

#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <type_traits>
#include <utility>

#include "base/result.h"

namespace sublet {

namespace asio = boost::asio;

template <typename T = void>
using Task = asio::awaitable<T>;

// Runs `work` on the pool and returns its value, which must be movable, on the executor of the
// caller. `work` reports by value: an exception out of it ends the program. Join the pool before
// the loop goes, so that nobody is left to answer.
template <typename Work>
Task<std::invoke_result_t<Work&>> OnPool(asio::thread_pool& pool, Work work) {
  using Value = std::invoke_result_t<Work&>;
  static_assert(!std::is_void_v<Value>, "say at least Status: what runs elsewhere can fail");
  auto begin = [&pool](auto handler, Work job) {
    // The guard keeps the loop running while its only business is to wait for the pool.
    auto guard = asio::make_work_guard(asio::get_associated_executor(handler));
    asio::post(pool, [handler = std::move(handler), job = std::move(job),
                      guard = std::move(guard)]() mutable noexcept {
      asio::post(guard.get_executor(), [handler = std::move(handler), value = job()]() mutable {
        std::move(handler)(std::move(value));
      });
    });
  };
  return asio::async_initiate<const asio::use_awaitable_t<>, void(Value)>(
      begin, asio::use_awaitable, std::move(work));
}

// Returns once `fd` can be read: an eventfd that was written, a pidfd whose process has ended. It
// waits on a copy, so that the caller may close his own meanwhile. Fails with kIo where the kernel
// can't wait for it (a regular file).
Task<Status> WaitReadable(int fd);

// For asio::co_spawn: an exception out of the coroutine ends the program, by way of
// io_context::run(), where nobody catches it. That it was cancelled is no such exception.
void EndsTheProgram(std::exception_ptr exception);

}  // namespace sublet
