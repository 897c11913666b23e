// proxy/control_request.h
//
// A request that the router answers itself, and its answer: the workers' API, health, metrics, the
// list of models.
//
//   hooks.access = [](std::string_view method, std::string_view path) {
//     return path == "/health" ? PathAccess::kOpen : PathAccess::kReplicas;
//   };
//   hooks.control = [&](ControlRequest request) -> Task<ControlAnswer> { ... };
//
// The data plane asks `access` of every request, so it must be cheap and must not allocate; it
// calls `control` only for the paths that aren't the replicas'. By then the request is whole and
// its sender has shown the key that `access` asks for.
//
// Thread safety: values. Both hooks are called from any of the server's threads; `control` runs on
// the loop that has the client, and must hand what takes long to another thread (OnPool).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sublet {

// Whose a path is, and who may ask for it where API keys are set. Without keys anybody may.
enum class PathAccess {
  kReplicas,  // Goes to a replica, with a client's key.
  kOpen,      // Ours, for anybody: a load balancer's health check has no key.
  kClient,    // Ours, with any key.
  kAdmin,     // Ours, with a key that is an administrator's.
};

struct ControlRequest {
  std::string method;
  std::string path;   // As sent, without the query; no dot segments in it.
  std::string query;  // As sent, without the '?'.
  std::string body;   // At most ProxyLimits::control_body_bytes_max.
  std::string accept;
  std::string tenant;  // Of the key; empty: none was asked for.
  std::string client;  // Its address, without the port.
};

struct ControlAnswer {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  // Besides those that every answer has; no CR or LF in them.
  std::vector<std::pair<std::string, std::string>> headers;
};

}  // namespace sublet
