#include "node/bell.h"

#include <boost/asio/redirect_error.hpp>

namespace sublet {

Moment MomentIn(double seconds) {
  return std::chrono::steady_clock::now() +
         std::chrono::duration_cast<std::chrono::steady_clock::duration>(
             std::chrono::duration<double>(seconds));
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

}  // namespace sublet
