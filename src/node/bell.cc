#include "node/bell.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/redirect_error.hpp>
#include <memory>
#include <utility>

#include "base/clock.h"

namespace sublet {

// The steady clock of the timers is CLOCK_MONOTONIC.
Moment Clock() {
  return Moment(std::chrono::nanoseconds(MonotonicNanoseconds()));
}

Moment MomentIn(double seconds) {
  return Clock() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                       std::chrono::duration<double>(seconds));
}

double SecondsSince(Moment then) {
  return std::chrono::duration<double>(Clock() - then).count();
}

void Bell::Ring() {
  rung_ = true;
  timer_.cancel();
}

Task<void> Bell::Wait(Moment until) {
  if (!rung_) {
    timer_.expires_at(until);
    boost::system::error_code cancelled;
    co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
  }
  rung_ = false;
}

void Broadcast::Announce() {
  for (Bell* bell : waiting_) bell->Ring();
}

Task<void> Broadcast::Next(Moment until) {
  Bell bell(loop_);
  // A wait that is cancelled leaves by an exception.
  struct Place {
    std::set<Bell*>& waiting;
    Bell* bell;
    ~Place() { waiting.erase(bell); }
  };
  const Place place{waiting_, &bell};
  waiting_.insert(&bell);
  co_await bell.Wait(until);
}

namespace {

struct Gathering {
  explicit Gathering(asio::io_context& loop) : bell(loop) {}
  std::size_t left = 0;
  Status first_failure;
  Bell bell;
};

Task<void> Gather(Task<Status> task, std::shared_ptr<Gathering> into) {
  const Status done = co_await std::move(task);
  if (!done && into->first_failure) into->first_failure = done;
  --into->left;
  into->bell.Ring();
}

}  // namespace

Task<Status> AllOf(asio::io_context& loop, std::vector<Task<Status>> tasks) {
  const auto gathering = std::make_shared<Gathering>(loop);
  gathering->left = tasks.size();
  for (Task<Status>& task : tasks) {
    asio::co_spawn(loop, Gather(std::move(task), gathering), EndsTheProgram);
  }
  while (gathering->left > 0) co_await gathering->bell.Wait();
  co_return gathering->first_failure;
}

}  // namespace sublet
