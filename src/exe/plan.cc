// `sublet plan`: from a fleet to a plan.
#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/files.h"
#include "exe/fleet_file.h"
#include "exe/program.h"
#include "exe/this_node.h"
#include "model/document.h"
#include "plan/planner.h"
#include "render/report.h"
#include "render/summary.h"

namespace sublet {
namespace {

struct Flags {
  std::string fleet;
  std::string node;
  std::string sim;
  std::string current;
  std::string calibration;
  std::string boards;
  std::string output;
  std::string report;
  bool json = false;
};

// The GPUs to plan for: those that the flags name, else the fleet's pools, else this node's.
Result<std::optional<Inventory>> NodeFor(const Flags& flags, const Fleet& fleet) {
  std::optional<Inventory> node;
  if (!flags.node.empty()) {
    ASSIGN_OR_RETURN(node, LoadNode(flags.node));
  } else if (!flags.sim.empty()) {
    // The simulated driver is told by the environment which node to play.
    ::setenv("SUBLET_SIM", flags.sim.c_str(), 1);
    ASSIGN_OR_RETURN(node, TakeThisNode({}));
  } else if (fleet.gpus.empty()) {
    Result<Inventory> here = TakeThisNode({});
    if (!here) {
      Error error = std::move(here).error().Prefixed("the fleet names no gpus, and this node");
      error.hint = "name boards under 'gpus:' in the fleet, or give --node FILE or --sim PRESET";
      return tl::unexpected<Error>(std::move(error));
    }
    node = *std::move(here);
  }
  return node;
}

Result<std::optional<Plan>> CurrentFor(const Flags& flags) {
  std::optional<Plan> current;
  if (flags.current.empty()) return current;
  ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.current, kDocumentBytesMax));
  ASSIGN_OR_RETURN(current, ParsePlan(text, flags.current));
  return current;
}

Result<int> MakeAndWrite(const Flags& flags) {
  const PlanFiles files{flags.fleet, flags.calibration, flags.boards};
  ASSIGN_OR_RETURN(const PlanInputs inputs, ReadPlanInputs(files));
  ASSIGN_OR_RETURN(const std::optional<Inventory> node, NodeFor(flags, inputs.fleet));
  ASSIGN_OR_RETURN(const std::optional<Plan> current, CurrentFor(flags));
  PlanRequest request = inputs.Request();
  if (node) request.node = &*node;
  if (current) request.current = &*current;
  ASSIGN_OR_RETURN(const Plan plan, MakePlan(request));
  const std::string json = PlanToJson(plan).dump(2) + "\n";
  // Everything is ready before anything is written.
  std::string page;
  if (!flags.report.empty()) page = RenderReport(json);
  if (!flags.output.empty()) RETURN_IF_ERROR(WriteFileAtomically(flags.output, json));
  if (!flags.report.empty()) RETURN_IF_ERROR(WriteFileAtomically(flags.report, page));
  if (flags.json) {
    fmt::print("{}", json);
    return 0;
  }
  fmt::print("{}", PlanSummaryText(plan, {.colour = WantsColour()}));
  for (const auto& [what, path] : {std::pair{"plan", flags.output}, {"report", flags.report}}) {
    if (!path.empty()) fmt::print("\n{}: {}", what, path);
  }
  fmt::print("\n");
  return 0;
}

}  // namespace

void AddPlanVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand(
      "plan", "Decide which model goes on which GPU, in which sharing mode, and what it costs");
  verb->add_option("fleet", flags->fleet, "The fleet file; - is standard input")->required();
  verb->add_option("--node", flags->node, "Plan for a recorded node (sublet inspect --record)")
      ->type_name("FILE");
  verb->add_option("--sim", flags->sim, "Plan for a simulated node, as h100-80gb:8")
      ->type_name("PRESET")
      ->excludes("--node");
  verb->add_option("--current", flags->current,
                   "The plan that runs now: move as little as possible")
      ->type_name("FILE");
  verb->add_option("--calibration", flags->calibration, "What sharing costs, as measured")
      ->type_name("FILE");
  verb->add_option("--boards", flags->boards,
                   "Boards and prices of your own, over the built-in ones")
      ->type_name("FILE");
  verb->add_option("-o,--output", flags->output, "Write the plan to FILE")->type_name("FILE");
  verb->add_option("--report", flags->report, "Write the report, one HTML page, to FILE")
      ->type_name("FILE");
  verb->add_flag("--json", flags->json, "Print the plan as JSON");
  verb->callback([&program, flags] { program.chosen = [flags] { return MakeAndWrite(*flags); }; });
}

}  // namespace sublet
