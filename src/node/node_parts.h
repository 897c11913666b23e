// node/node_parts.h
//
// What every part of a node works with. Internal to the module.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <optional>
#include <string>

#include "base/process_handle.h"
#include "base/user.h"
#include "http/event_loop.h"
#include "model/node_counters.h"
#include "node/event_log.h"
#include "node/share_search.h"
#include "store/node_store.h"

namespace sublet {

struct NodeSettings {
  std::string state;    // Absolute folder: the store, the replicas' logs.
  std::string run;      // Absolute folder with a short path: the MPS domains' sockets.
  std::string program;  // Path of `sublet`, for the probe clients.
  std::string nvml;     // What NvmlLibrary::Open takes.
  // Folders put in front of LD_LIBRARY_PATH of tenants: those of a simulated driver; else empty.
  std::string libraries;
};

// A process as the store keeps it, and back.
Process RowOf(const ProcessIdentity& identity, const std::optional<UserIds>& user);
ProcessIdentity IdentityOf(const Process& process);

struct NodeParts {
  asio::io_context& loop;
  asio::thread_pool& pool;
  NodeStore& store;
  EventLog& events;
  NodeCounters& counters;
  const NodeSettings& settings;
  ShareSearch& search;
};

}  // namespace sublet
