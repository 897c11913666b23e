#include "node/share_search.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>

#include "base/process_handle.h"
#include "node/launcher.h"

namespace sublet {
namespace {

// A rest as long as the look was: 10 ms with some hundred shares. Beyond this who waits would
// notice.
constexpr double kRestSecondsMax = 0.05;

struct Seen {
  std::shared_ptr<const ShareProcesses> found;
  double seconds = 0;
};

}  // namespace

Task<std::shared_ptr<const ShareProcesses>> ShareSearch::Find() {
  const auto self = shared_from_this();
  // One that goes on may have passed what is to be found already.
  const long long mine = begun_ + 1;
  wanted_ = std::max(wanted_, mine);
  if (!looking_) {
    looking_ = true;
    asio::co_spawn(loop_, LookWhileWanted(), EndsTheProgram);
  }
  while (done_ < mine) co_await changes_.Next();
  co_return found_;
}

Task<void> ShareSearch::LookWhileWanted() {
  const auto self = shared_from_this();
  // Who asks in the same turn of the loop is served by the same look.
  co_await asio::post(loop_, asio::use_awaitable);
  while (done_ < wanted_) {
    if (Clock() < rest_until_) co_await pause_.Wait(rest_until_);
    ++begun_;
    auto look = [state = state_] {
      const Moment begin = Clock();
      auto found = std::make_shared<ShareProcesses>();
      for (const auto& [process, share] : ProcessesOfShares(state)) {
        (*found)[share].push_back(process.pid);
      }
      return Seen{std::move(found), SecondsSince(begin)};
    };
    Seen seen = co_await OnPool(pool_, std::move(look));
    found_ = std::move(seen.found);
    rest_until_ = MomentIn(std::min(seen.seconds, kRestSecondsMax));
    done_ = begun_;
    changes_.Announce();
  }
  looking_ = false;
}

}  // namespace sublet
