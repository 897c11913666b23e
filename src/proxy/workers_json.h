// proxy/workers_json.h
//
// What is known about each replica, as GET /workers tells it. docs/formats/route-api.yaml has the
// schema.
//
// Thread safety: pure.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/replica_sources.h"
#include "proxy/route_metrics.h"
#include "route/router.h"

namespace sublet {

// `source`: of its KV events; null where it isn't set to send any.
nlohmann::ordered_json WorkerToJson(const ReplicaStatus& status, const KvSourceStatus* source,
                                    bool simulated);

// The figures of a replica's KV events, or null.
const KvSourceStatus* SourceOf(const RouteView& view, std::string_view replica);

// All of them, who was left out, and who tells of them.
nlohmann::ordered_json WorkersToJson(const RouteView& view,
                                     const std::vector<RefusedReplica>& refused,
                                     const std::set<std::string, std::less<>>& simulated,
                                     const std::string& config_error);

// OpenAI's list: what replicas serve, and aliases of that. `created`: seconds since 1970.
nlohmann::ordered_json ModelsToJson(const std::vector<std::string>& models,
                                    const std::map<std::string, std::string>& aliases,
                                    std::int64_t created);

// One sentence why no request can be served; empty: one can.
std::string WhyNotReady(const std::vector<ReplicaStatus>& replicas);

}  // namespace sublet
