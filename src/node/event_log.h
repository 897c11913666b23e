// node/event_log.h
//
// What happened on this node, in order: kept in the store, told to whoever follows.
//
//   events.Append("domain", "gpu0-search", "fault", "illegal access by chat/0 (pid 4711)");
//   ...
//   while (true) {                                 // `sublet events --follow`
//     for (const NodeEvent& event : *events.After(last, 100)) ...
//     co_await events.news().Next();
//   }
//
// An event that can't be written, on a full disk for instance, still stands in the daemon's log.
//
// Thread safety: the loop's thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/node_status.h"
#include "node/bell.h"
#include "store/node_store.h"

namespace sublet {

class EventLog {
 public:
  // REQUIRES: both outlive the log.
  EventLog(asio::io_context& loop, NodeStore& store) : store_(store), news_(loop) {}

  void Append(std::string_view subject_kind, std::string_view subject, std::string_view what,
              std::string message);

  // Those after a sequence number, oldest first, at most `limit`.
  Result<std::vector<NodeEvent>> After(std::int64_t sequence, int limit) const;

  // Announced after each.
  Broadcast& news() { return news_; }

 private:
  NodeStore& store_;
  Broadcast news_;
};

}  // namespace sublet
