// model/node_counters.h
//
// What a node has done since its daemon started, counted: what NodeStatus, which is a moment, can't
// tell. observe/metrics.h prints both.
//
//   counters.refusals[std::string(ErrorCodeName(error.code))] += 1;
//
// Counters only grow while the daemon runs and begin anew with it, as Prometheus expects.
//
// Thread safety: a value; the daemon's loop owns it.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace sublet {

struct GpuCounters {
  int last_xid = 0;                  // 0: none yet.
  std::map<int, std::int64_t> xids;  // By number.
  std::int64_t unhealthy = 0;        // Times that it became so.
  std::int64_t recovered = 0;
};

struct DomainCounters {
  std::int64_t faults = 0;
  std::int64_t wedges = 0;  // Times that its daemon had to be replaced.
};

struct NodeCounters {
  std::string version;                               // Of the program.
  double uptime_s = 0;                               // Of the daemon.
  std::int64_t grants = 0;                           // Shares given.
  std::int64_t returns = 0;                          // Shares taken back.
  std::map<std::string, std::int64_t> refusals;      // By ErrorCodeName.
  std::map<std::string, std::int64_t> share_faults;  // By share id; of shares that there are.
  std::map<std::string, DomainCounters> domains;     // By name; of domains that there are.
  std::map<std::string, GpuCounters> gpus;           // By UUID.
  std::int64_t unconfined = 0;   // Processes stopped because no limit held them.
  double grant_seconds_sum = 0;  // Time from request to answer, over all grants.
  std::int64_t events_written = 0;
};

}  // namespace sublet
