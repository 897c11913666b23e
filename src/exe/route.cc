// `sublet route`: requests to the replicas that hold their KV cache.
#include <memory>

#include "exe/program.h"
#include "exe/route_demo.h"
#include "exe/route_replay.h"
#include "exe/route_serve.h"

namespace sublet {
namespace {

struct RouteFlags {
  RouteServeFlags serve;
  RouteReplayFlags replay;
  RouteDemoFlags demo;
  std::string policy;  // Empty: not asked for.
};

Result<int> Route(RouteFlags& flags) {
  if (flags.demo.demo) {
    flags.demo.policies = flags.policy;
    return DemoRoute(flags.demo);
  }
  if (!flags.replay.trace.empty()) {
    if (!flags.policy.empty()) flags.replay.policies = flags.policy;
    return ReplayRoute(flags.replay);
  }
  flags.serve.policy = flags.policy;
  return flags.serve.check ? CheckRoute(flags.serve) : ServeRoute(flags.serve);
}

}  // namespace

void AddRouteVerb(Program& program) {
  auto flags = std::make_shared<RouteFlags>();
  CLI::App* verb = program.app.add_subcommand(
      "route", "Send each request to the replica that already holds its KV cache");
  AddRouteServeFlags(*verb, flags->serve);
  verb->add_option("--policy", flags->policy,
                   "How to choose, instead of the file's (cost); with --replay and --demo several "
                   "with commas, with --replay also all");
  verb->add_flag("--json", flags->replay.json, "With --replay: print JSON for programs");
  AddRouteReplayFlags(*verb, flags->replay);
  AddRouteDemoFlags(*verb, flags->demo);
  verb->callback([&program, flags] { program.chosen = [flags] { return Route(*flags); }; });
}

}  // namespace sublet
