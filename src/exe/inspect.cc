// `sublet inspect`: what is in this node.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/files.h"
#include "exe/program.h"
#include "exe/this_node.h"
#include "inventory/table.h"
#include "model/inventory.h"

namespace sublet {
namespace {

struct Flags {
  bool json = false;
  std::string record;
  std::string from;
  std::string nvml;
  double timeout_s = 60;
};

Result<int> Inspect(const Flags& flags) {
  ASSIGN_OR_RETURN(const Inventory node,
                   flags.from.empty()
                       ? TakeThisNode({.nvml = flags.nvml, .timeout_s = flags.timeout_s})
                       : LoadNode(flags.from));
  // Host names and paths are bytes to the kernel; JSON is text.
  const std::string json =
      InventoryToJson(node).dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
      "\n";
  if (!flags.record.empty()) RETURN_IF_ERROR(WriteFileAtomically(flags.record, json));
  fmt::print("{}", flags.json ? json : InventoryTable(node, {.colour = WantsColour()}));
  return 0;
}

}  // namespace

void AddInspectVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand(
      "inspect", "Show the GPUs of this node and the sharing modes that they can run");
  verb->add_flag("--json", flags->json, "Print JSON for programs instead of tables");
  verb->add_option("--record", flags->record, "Write the node to FILE as well")->type_name("FILE");
  CLI::Option* from =
      verb->add_option("--from", flags->from, "Show a recorded node instead of this one")
          ->type_name("FILE");
  verb->add_option("--nvml", flags->nvml,
                   "NVIDIA's management library (also SUBLET_NVML; default libnvidia-ml.so.1)")
      ->type_name("PATH")
      ->excludes(from);
  verb->add_option("--timeout", flags->timeout_s, "Seconds to wait for a driver that hangs")
      ->type_name("S")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  verb->callback([&program, flags] { program.chosen = [flags] { return Inspect(*flags); }; });
}

}  // namespace sublet
