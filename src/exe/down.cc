// `sublet down`: what a plan brought up goes.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/interrupt.h"
#include "exe/node_client.h"
#include "exe/operation_view.h"
#include "exe/program.h"

namespace sublet {
namespace {

struct Flags {
  std::string socket;
  bool json = false;
};

Result<int> Down(const Flags& flags) {
  ASSIGN_OR_RETURN(NodeClient node, ConnectToNode(flags.socket, Intent::kLook));
  const InterruptScope interrupts;
  ASSIGN_OR_RETURN(const NodeStatus status, node.ReadStatus());
  OperationView view;
  const Status deleted = node.DeletePlan([&](const OperationStep& step) {
    if (flags.json) {
      const nlohmann::ordered_json line = {
          {"step", step.step}, {"state", step.state}, {"message", step.message}};
      fmt::print("{}\n",
                 line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
      std::fflush(stdout);
    } else {
      view.Take(step);
    }
  });
  view.Finish();
  if (!deleted && Interrupted()) {
    fmt::print(stderr, "sublet: the node goes on with it; sublet ps shows how far it is\n");
    return 128 + InterruptSignal();
  }
  if (!deleted) return tl::unexpected<Error>(deleted.error());
  if (flags.json) {
    fmt::print("{{\"done\":true}}\n");
  } else if (status.plan.empty()) {
    fmt::print("nothing was up\n");
  } else {
    fmt::print("{} is down, in {:.1f} s\n", status.plan, view.elapsed_s());
  }
  return 0;
}

}  // namespace

void AddDownVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand("down", "End what sublet up brought up");
  verb->add_flag("--json", flags->json, "Print the steps as JSON, one a line");
  AddSocketOption(*verb, flags->socket);
  verb->callback([&program, flags] { program.chosen = [flags] { return Down(*flags); }; });
}

}  // namespace sublet
