// `sublet up`: a fleet or a plan becomes running models.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/files.h"
#include "base/interrupt.h"
#include "exe/fleet_file.h"
#include "exe/node_client.h"
#include "exe/operation_view.h"
#include "exe/planning_node.h"
#include "exe/program.h"
#include "model/document.h"
#include "render/summary.h"

namespace sublet {
namespace {

struct Flags {
  PlanFiles files;
  std::string socket;
  std::optional<double> timeout_s;
  bool dry_run = false;
  bool json = false;
};

// Whether a document says of itself that it is a plan. What can't be read is taken for a fleet,
// whose reader then says what is wrong.
bool IsPlan(const std::string& text) {
  const Result<Node> root = ParseDocument(text);
  if (!root) return false;
  const Node* const version = root->Find("version");
  if (version == nullptr) return false;
  const Result<std::string> word = ReadString(*version);
  return word && word->starts_with("sublet.plan/");
}

// Where the fleet's relative commands begin.
std::string FolderOfFile(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::path folder = path == "-" ? std::filesystem::current_path(ignored)
                                                   : std::filesystem::absolute(path).parent_path();
  const std::filesystem::path real = std::filesystem::canonical(folder, ignored);
  return (real.empty() ? folder : real).string();
}

Result<Plan> MakePlanFor(NodeClient& node, const std::string& text, const PlanFiles& files) {
  ASSIGN_OR_RETURN(const PlanInputs inputs, ParsePlanInputs(text, files));
  ASSIGN_OR_RETURN(Inventory seen, node.ReadInventory());
  ASSIGN_OR_RETURN(const NodeStatus status, node.ReadStatus());
  const Inventory inventory = ForPlanning(std::move(seen), status);
  ASSIGN_OR_RETURN(const std::optional<Plan> current, node.ReadPlan());
  PlanRequest request = inputs.Request();
  request.node = &inventory;
  // Comparing with each single mode costs as much again, and nobody chooses here.
  request.compare = false;
  if (current) request.current = &*current;
  return MakePlan(request);
}

int DryRun(const Plan& plan, const std::vector<std::string>& steps, const Flags& flags) {
  if (flags.json) {
    const nlohmann::ordered_json json = {{"steps", steps}, {"plan", PlanToJson(plan)}};
    fmt::print("{}\n", json.dump(2));
    return 0;
  }
  fmt::print("{}\n", PlanSummaryText(plan, {.colour = WantsColour()}));
  if (steps.empty()) fmt::print("Nothing to do: all of it is up.\n");
  for (std::size_t i = 0; i < steps.size(); ++i) fmt::print("{:3}. {}\n", i + 1, steps[i]);
  return 0;
}

void PrintJsonLine(const OperationStep& step) {
  const nlohmann::ordered_json line = {
      {"step", step.step}, {"state", step.state}, {"message", step.message}};
  fmt::print("{}\n", line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  std::fflush(stdout);
}

Result<int> BringUp(NodeClient& node, const Plan& plan, const std::string& folder,
                    const Flags& flags) {
  if (!flags.json) fmt::print("{}\n", PlanSummaryText(plan, {.colour = WantsColour()}));
  std::fflush(stdout);
  OperationView view;
  const OnStep on_step = [&](const OperationStep& step) {
    if (flags.json) {
      PrintJsonLine(step);
    } else {
      view.Take(step);
    }
  };
  const Status put = node.PutPlan(plan, folder, on_step, flags.timeout_s);
  view.Finish();
  if (!put && Interrupted()) {
    fmt::print(stderr, "sublet: the node goes on with it; sublet ps shows how far it is\n");
    return 128 + InterruptSignal();
  }
  if (!put) return tl::unexpected<Error>(put.error());
  if (flags.json) {
    fmt::print("{{\"done\":true}}\n");
    return 0;
  }
  const bool changed = view.steps().done() > 0;
  fmt::print("{}: {} on {} in {:.1f} s\n", plan.fleet,
             changed ? fmt::format("{} replicas are up", plan.summary.replicas)
                     : "nothing to do, all is up",
             plan.summary.gpus == 1 ? "1 GPU" : fmt::format("{} GPUs", plan.summary.gpus),
             view.elapsed_s());
  return 0;
}

Result<int> Up(const Flags& flags) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.files.fleet, kDocumentBytesMax));
  // Before a daemon is started for a file that is wrong.
  const bool is_plan = IsPlan(text);
  std::optional<Plan> given;
  if (is_plan) {
    ASSIGN_OR_RETURN(given, ParsePlan(text, flags.files.fleet));
  } else {
    ASSIGN_OR_RETURN(const PlanInputs inputs, ParsePlanInputs(text, flags.files));
  }
  ASSIGN_OR_RETURN(NodeClient node, ConnectToNode(flags.socket, Intent::kStart));
  const InterruptScope interrupts;
  if (!given) {
    ASSIGN_OR_RETURN(given, MakePlanFor(node, text, flags.files));
  }
  const std::string folder = FolderOfFile(flags.files.fleet);
  if (!flags.dry_run) return BringUp(node, *given, folder, flags);
  ASSIGN_OR_RETURN(const std::vector<std::string> steps, node.PlanSteps(*given, folder));
  return DryRun(*given, steps, flags);
}

}  // namespace

void AddUpVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand(
      "up", "Make a fleet or a plan run on this machine, by the smallest change from what runs");
  verb->add_option("file", flags->files.fleet, "A fleet, or a plan of sublet plan; - is stdin")
      ->required();
  verb->add_flag("--dry-run", flags->dry_run, "Show the plan and the steps, and do nothing");
  verb->add_flag("--json", flags->json, "Print the steps as JSON, one a line");
  verb->add_option("--timeout", flags->timeout_s,
                   "Seconds to wait until all is ready (default: as long as it takes)")
      ->check(CLI::Range(0.1, 86400.0))
      ->type_name("S");
  verb->add_option("--calibration", flags->files.calibration, "What sharing costs, as measured")
      ->type_name("FILE");
  verb->add_option("--boards", flags->files.boards,
                   "Boards and prices of your own, over the built-in ones")
      ->type_name("FILE");
  AddSocketOption(*verb, flags->socket);
  verb->callback([&program, flags] { program.chosen = [flags] { return Up(*flags); }; });
}

}  // namespace sublet
