// `sublet mig assert` and `sublet mig export`: whether the node is as a mig-parted file has it, and
// what it is, as such a file.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/files.h"
#include "exe/mig_request.h"
#include "exe/mig_verbs.h"

namespace sublet {
namespace {

constexpr std::string_view kMigAssertVersion = "sublet.mig-assert/v1";

struct ExportFlags {
  MigFlags mig;
  std::string output;
  std::string label = "current";
};

Result<int> Assert(const MigFlags& flags) {
  ASSIGN_OR_RETURN(const MigConfigLabel label, LoadMigLabel(flags));
  ASSIGN_OR_RETURN(const MigNode node, MigNode::Find(flags, MigNode::For::kLook));
  ASSIGN_OR_RETURN(
      const std::vector<std::string> differences,
      LabelDifferences(BuiltInBoards(), node.inventory(), label, {.mode_only = flags.mode_only}));
  if (flags.json) {
    const nlohmann::ordered_json json{{"version", kMigAssertVersion},
                                      {"label", label.name},
                                      {"applied", differences.empty()},
                                      {"differences", differences}};
    fmt::print("{}\n", json.dump(2));
  } else if (differences.empty()) {
    fmt::print("{} is applied\n", label.name);
  } else {
    fmt::print("{} is not applied:\n  {}\n", label.name, fmt::join(differences, "\n  "));
  }
  return differences.empty() ? 0 : 1;
}

Result<int> Export(const ExportFlags& flags) {
  ASSIGN_OR_RETURN(const MigNode node, MigNode::Find(flags.mig, MigNode::For::kLook));
  MigConfig config;
  config.labels.emplace_back();
  ASSIGN_OR_RETURN(config.labels[0], LabelOfNode(BuiltInBoards(), node.inventory(), flags.label));
  const std::string text = MigConfigToYaml(config);
  if (!flags.output.empty()) {
    RETURN_IF_ERROR(WriteFileAtomically(flags.output, text));
  } else {
    fmt::print("{}", text);
  }
  return 0;
}

}  // namespace

void AddMigAssert(Program& program, CLI::App& mig) {
  auto flags = std::make_shared<MigFlags>();
  CLI::App* const verb =
      mig.add_subcommand("assert", "Say whether the node is as a mig-parted file has it");
  AddMigFileFlags(*verb, *flags);
  verb->add_flag("--json", flags->json, "Print JSON for programs");
  AddMigNodeFlags(*verb, *flags);
  verb->footer("Exit status: 0 it is, 1 it is not; the differences are printed.");
  verb->callback([&program, flags] { program.chosen = [flags] { return Assert(*flags); }; });
}

void AddMigExport(Program& program, CLI::App& mig) {
  auto flags = std::make_shared<ExportFlags>();
  CLI::App* const verb = mig.add_subcommand("export", "Write what is there as a mig-parted file");
  verb->add_option("-o,--output", flags->output, "The file; standard output without")
      ->type_name("FILE");
  verb->add_option("-l,--label", flags->label, "The label in it")->capture_default_str();
  AddMigNodeFlags(*verb, flags->mig);
  verb->callback([&program, flags] { program.chosen = [flags] { return Export(*flags); }; });
}

}  // namespace sublet
