// exe/route_serve.h
//
// `sublet route --config FILE`: the router, serving.
//
//   auto flags = std::make_shared<RouteServeFlags>();
//   AddRouteServeFlags(*verb, *flags);                // All but --policy, which is the verb's own.
//   return flags->check ? CheckRoute(*flags) : ServeRoute(*flags);
//
// Thread safety: one thread.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/route_config.h"

namespace sublet {

struct RouteServeFlags {
  std::string config;                 // A file; empty: what the flags say is all.
  std::vector<std::string> replicas;  // URLs, besides those of the file.
  std::optional<int> port;
  std::string address;
  std::string policy;  // Empty: the file's.
  bool check = false;
};

void AddRouteServeFlags(CLI::App& verb, RouteServeFlags& flags);

// The file with what the flags say instead, paths absolute, the node's socket and the pod's
// surroundings found. What a running router loads again and again.
Result<RouteConfig> LoadRouteConfig(const RouteServeFlags& flags);

// Whether the router could start: reads the file and those that it names, listens nowhere.
Result<int> CheckRoute(const RouteServeFlags& flags);
Result<int> ServeRoute(const RouteServeFlags& flags);

}  // namespace sublet
