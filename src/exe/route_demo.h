// exe/route_demo.h
//
// `sublet route --demo`: the same conversations under two policies at once, each with a router and
// simulated engines of its own, and what comes of it live on the terminal.
//
//   auto flags = std::make_shared<RouteDemoFlags>();
//   AddRouteDemoFlags(*verb, *flags);   // All but --policy, which is the verb's own.
//   if (flags->demo) return DemoRoute(*flags);
//
// Real sockets, real KV events over ZeroMQ, the shipped router; only the engines have no model.
//
// Thread safety: one thread.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "base/result.h"

namespace sublet {

struct RouteDemoFlags {
  bool demo = false;
  double seconds = 30;
  std::string policies;  // Two or three, with commas; empty: cost and round-robin.
};

void AddRouteDemoFlags(CLI::App& verb, RouteDemoFlags& flags);

Result<int> DemoRoute(const RouteDemoFlags& flags);

}  // namespace sublet
