#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"
#include "exe/mig_verbs.h"
#include "exe/program.h"
#include "model/board.h"
#include "model/document.h"
#include "model/mig_config.h"
#include "plan/mig_check.h"

namespace sublet {
namespace {

struct Flags {
  std::string board;
  std::vector<std::string> profiles;
  std::string config;
  std::optional<std::string> label;
  bool json = false;
};

Result<MigCheck> Ask(const Flags& flags) {
  if (flags.config.empty() == flags.profiles.empty()) {
    return Fail(ErrorCode::kUsage, "give MIG profiles, or a mig-parted file with --config",
                "sublet mig check --board a100-80gb 3g.40gb 1g.10gb");
  }
  if (flags.label && flags.config.empty()) {
    return Fail(ErrorCode::kUsage, "--label selects from a file: give --config, too");
  }
  const BoardCatalogue& boards = BuiltInBoards();
  ASSIGN_OR_RETURN(const Board* const board, boards.Find(flags.board));
  if (flags.config.empty()) return CheckProfiles(boards, *board, flags.profiles);
  ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.config, kDocumentBytesMax));
  ASSIGN_OR_RETURN(const MigConfig config, ParseMigConfig(text, flags.config));
  auto check = CheckConfig(boards, *board, config, flags.label);
  if (!check) return tl::unexpected<Error>(std::move(check).error().Prefixed(flags.config));
  return check;
}

Result<int> Check(const Flags& flags) {
  ASSIGN_OR_RETURN(const MigCheck check, Ask(flags));
  if (flags.json) {
    fmt::print("{}\n", MigCheckToJson(check).dump(2));
  } else {
    fmt::print("{}", MigCheckToText(check));
  }
  return check.placeable() ? 0 : 1;
}

}  // namespace

void AddMigVerb(Program& program) {
  CLI::App* mig = program.app.add_subcommand("mig", "Check, plan, make and compare MIG instances");
  mig->require_subcommand(1);

  auto flags = std::make_shared<Flags>();
  CLI::App* check =
      mig->add_subcommand("check", "Say whether MIG instances can exist together, and where");
  check->add_option("profiles", flags->profiles, "MIG profiles, one for each instance: 3g.40gb");
  check->add_option("--board", flags->board, "Board of the catalogue: a100-80gb")->required();
  check->add_option("--config", flags->config, "A mig-parted file to check (- is standard input)");
  check->add_option("--label", flags->label, "Check this label of the file, not all");
  check->add_flag("--json", flags->json, "Print JSON for programs");
  check->footer("Exit status: 0 placeable, 1 not; the reason is printed.");
  check->callback([&program, flags] { program.chosen = [flags] { return Check(*flags); }; });

  AddMigPlan(program, *mig);
  AddMigApply(program, *mig);
  AddMigAssert(program, *mig);
  AddMigExport(program, *mig);
}

}  // namespace sublet
