// `sublet inspect`: what is in this node.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>

#include "base/files.h"
#include "exe/program.h"
#include "inventory/nvml_library.h"
#include "inventory/table.h"
#include "inventory/take.h"
#include "model/document.h"
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

std::optional<std::string> ProcessEnvironment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

std::string ProgramFolder() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path().string();
}

Result<Inventory> LoadOrTake(const Flags& flags) {
  if (!flags.from.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.from, kDocumentBytesMax));
    return ParseInventory(text, flags.from);
  }
  TakeOptions options;
  options.nvml_path = FindNvml(flags.nvml, ProcessEnvironment, ProgramFolder());
  options.patience = std::chrono::milliseconds(static_cast<std::int64_t>(flags.timeout_s * 1000));
  return TakeInventory(options, ProcessEnvironment);
}

Result<int> Inspect(const Flags& flags) {
  ASSIGN_OR_RETURN(const Inventory node, LoadOrTake(flags));
  const std::string json = InventoryToJson(node).dump(2) + "\n";
  if (!flags.record.empty()) RETURN_IF_ERROR(WriteFileAtomically(flags.record, json));
  const bool colour = ::isatty(STDOUT_FILENO) != 0 && !ProcessEnvironment("NO_COLOR");
  fmt::print("{}", flags.json ? json : InventoryTable(node, {.colour = colour}));
  return 0;
}

}  // namespace

void AddInspectVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand(
      "inspect", "Show the GPUs of this node and the sharing modes that they can run");
  verb->add_flag("--json", flags->json, "Print JSON for programs instead of tables");
  verb->add_option("--record", flags->record, "Write the node to FILE as well")->type_name("FILE");
  verb->add_option("--from", flags->from, "Show a recorded node instead of this one")
      ->type_name("FILE");
  verb->add_option("--nvml", flags->nvml,
                   "NVIDIA's management library (also SUBLET_NVML; default libnvidia-ml.so.1)")
      ->type_name("PATH");
  verb->add_option("--timeout", flags->timeout_s, "Seconds to wait for a driver that hangs")
      ->type_name("S")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  verb->callback([&program, flags] { program.chosen = [flags] { return Inspect(*flags); }; });
}

}  // namespace sublet
