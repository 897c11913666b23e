// node/share_search.h
//
// Which processes the node's shares have: their own, and what those started and left behind. They
// are found by their marks, which means a look at every process of the machine.
//
//   const std::shared_ptr<const ShareProcesses> found = co_await search.Find();
//   if (!found->contains("s17")) ...             // Nobody is left.
//
// One look serves everybody who asked before it began, and there is one look at a time, at most
// half of the time: a thousand shares that end together cost a few looks, and what else the node
// does goes on beside them.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "http/event_loop.h"
#include "node/bell.h"

namespace sublet {

// The numbers of each share's processes, by its id; a share without any isn't there.
using ShareProcesses = std::map<std::string, std::vector<int>>;

// Always shared: who waits keeps it.
class ShareSearch : public std::enable_shared_from_this<ShareSearch> {
 public:
  // `state`: the state directory whose shares they are.
  ShareSearch(asio::io_context& loop, asio::thread_pool& pool, std::string state)
      : loop_(loop), pool_(pool), state_(std::move(state)), changes_(loop), pause_(loop) {}

  // As a look has it that began after this call.
  Task<std::shared_ptr<const ShareProcesses>> Find();

 private:
  Task<void> LookWhileWanted();

  asio::io_context& loop_;
  asio::thread_pool& pool_;
  const std::string state_;
  bool looking_ = false;
  long long begun_ = 0;   // Looks.
  long long wanted_ = 0;  // The last one that somebody waits for.
  long long done_ = 0;
  std::shared_ptr<const ShareProcesses> found_;
  Moment rest_until_{};
  Broadcast changes_;
  Bell pause_;
};

}  // namespace sublet
