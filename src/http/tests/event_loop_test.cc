#include "http/event_loop.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/system/system_error.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/file_descriptor.h"

namespace sublet {
namespace {

TEST(EventLoop, BringsAValueBackFromThePool) {
  asio::io_context loop;
  asio::thread_pool pool(2);
  const std::thread::id here = std::this_thread::get_id();
  std::string got;
  const auto ask = [](asio::thread_pool& where, std::thread::id home,
                      std::string& out) -> Task<void> {
    // What can only be moved goes there, and what can only be moved comes back.
    auto parcel = std::make_unique<std::string>("parcel of more bytes than a string has inside");
    auto work = [parcel = std::move(parcel),
                 home]() mutable -> Result<std::unique_ptr<std::string>> {
      EXPECT_NE(std::this_thread::get_id(), home);
      return std::move(parcel);
    };
    Result<std::unique_ptr<std::string>> back = co_await OnPool(where, std::move(work));
    EXPECT_EQ(std::this_thread::get_id(), home);
    out = **back;
  };
  asio::co_spawn(loop, ask(pool, here, got), EndsTheProgram);
  loop.run();
  EXPECT_EQ(got, "parcel of more bytes than a string has inside");
  pool.join();
}

TEST(EventLoop, GoesOnWhileThePoolWorks) {
  asio::io_context loop;
  asio::thread_pool pool(1);
  const FileDescriptor event(::eventfd(0, EFD_CLOEXEC));
  std::vector<std::string> order;
  const auto wait = [](asio::thread_pool& where, int fd,
                       std::vector<std::string>& out) -> Task<void> {
    auto work = [fd] {
      std::uint64_t count = 0;
      return ::read(fd, &count, sizeof count) == sizeof count;  // Until the loop writes it.
    };
    const bool read = co_await OnPool(where, work);
    EXPECT_TRUE(read);
    out.push_back("pool");
  };
  asio::co_spawn(loop, wait(pool, event.get(), order), EndsTheProgram);
  asio::post(loop, [&] {
    order.push_back("loop");
    const std::uint64_t one = 1;
    EXPECT_EQ(::write(event.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  });
  loop.run();
  EXPECT_EQ(order, (std::vector<std::string>{"loop", "pool"}));
  pool.join();
}

TEST(EventLoop, WaitsForADescriptorTwiceAtOnce) {
  asio::io_context loop;
  const FileDescriptor event(::eventfd(0, EFD_CLOEXEC));
  int woken = 0;
  const auto wait = [](int fd, int& count) -> Task<void> {
    const Status readable = co_await WaitReadable(fd);
    EXPECT_TRUE(readable);
    ++count;
  };
  asio::co_spawn(loop, wait(event.get(), woken), EndsTheProgram);
  asio::co_spawn(loop, wait(event.get(), woken), EndsTheProgram);
  loop.poll();
  EXPECT_EQ(woken, 0);
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(event.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  loop.run();
  EXPECT_EQ(woken, 2);
}

TEST(EventLoop, FailsForWhatNobodyCanWaitFor) {
  asio::io_context loop;
  const FileDescriptor file(::memfd_create("x", MFD_CLOEXEC));
  const auto wait = [](int fd, ErrorCode& code) -> Task<void> {
    const Status readable = co_await WaitReadable(fd);
    EXPECT_FALSE(readable);
    if (!readable) code = readable.error().code;
  };
  ErrorCode code = ErrorCode::kInternal;
  asio::co_spawn(loop, wait(file.get(), code), EndsTheProgram);
  loop.run();
  EXPECT_EQ(code, ErrorCode::kIo);
}

TEST(EventLoop, TakesACancellationForNoFault) {
  asio::io_context loop;
  asio::cancellation_signal signal;
  const FileDescriptor event(::eventfd(0, EFD_CLOEXEC));
  const auto wait = [](int fd) -> Task<void> {
    const Status readable = co_await WaitReadable(fd);
    ADD_FAILURE() << "went on";
  };
  asio::co_spawn(loop, wait(event.get()),
                 asio::bind_cancellation_slot(signal.slot(), EndsTheProgram));
  loop.poll();
  signal.emit(asio::cancellation_type::terminal);
  loop.restart();
  EXPECT_NO_THROW(loop.run());
  const auto fault = []() -> Task<void> {
    throw std::runtime_error("a fault");
    co_return;
  };
  asio::co_spawn(loop, fault(), EndsTheProgram);
  loop.restart();
  EXPECT_THROW(loop.run(), std::runtime_error);
}

}  // namespace
}  // namespace sublet
