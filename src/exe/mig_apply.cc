// `sublet mig apply` and `sublet mig plan`: a mig-parted file made so, or what that would take.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "base/files.h"
#include "exe/mig_hook_runs.h"
#include "exe/mig_request.h"
#include "exe/mig_verbs.h"
#include "model/document.h"

namespace sublet {
namespace {

Result<MigHookRuns> HooksFor(const MigFlags& flags, const std::string& label) {
  if (flags.hooks.empty()) return MigHookRuns();
  ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.hooks, kDocumentBytesMax));
  ASSIGN_OR_RETURN(MigHooks hooks, ParseMigHooks(text, flags.hooks));
  return MigHookRuns(std::move(hooks),
                     {{"MIG_PARTED_CONFIG_FILE", flags.config},
                      {"MIG_PARTED_SELECTED_CONFIG", label},
                      {"MIG_PARTED_HOOKS_FILE", flags.hooks},
                      {"MIG_PARTED_SKIP_RESET", "false"},
                      {"MIG_PARTED_MODE_CHANGE_ONLY", flags.mode_only ? "true" : "false"}});
}

// Whether hooks of that point belong to the change: as in mig-parted, instances that go because the
// mode does are the mode's affair.
bool CallsFor(const MigChange& change, MigHookPoint point) {
  return std::ranges::any_of(change.steps, [&](const MigStep& step) {
    if (step.ChangesMode()) return point == MigHookPoint::kPreApplyMode;
    const auto of_gpu = std::ranges::find(change.layout.gpus, step.gpu_uuid,
                                          [](const MigLayout& gpu) { return gpu.target.gpu_uuid; });
    return point == MigHookPoint::kPreApplyConfig && of_gpu->target.mig;
  });
}

void Print(const MigFlags& flags, const Inventory& node, const std::string& label,
           const MigChange& change, bool applied) {
  if (flags.json) {
    fmt::print("{}\n", MigChangeJson(node, label, change, applied).dump(2));
    return;
  }
  fmt::print("{}", MigChangeReport(node, change));
  if (flags.dry_run) return;
  if (change.steps.empty()) {
    fmt::print("{} is applied already\n", label);
  } else {
    fmt::print("{} is applied: {} step{} done and verified\n", label, change.steps.size(),
               change.steps.size() == 1 ? "" : "s");
  }
}

Result<int> ShowPlan(const MigFlags& flags) {
  ASSIGN_OR_RETURN(const MigConfigLabel label, LoadMigLabel(flags));
  ASSIGN_OR_RETURN(const MigNode node, MigNode::Find(flags, MigNode::For::kLook));
  ASSIGN_OR_RETURN(const MigChange change, PlanMigChange(node.inventory(), label, node.Use(),
                                                         {.mode_only = flags.mode_only}));
  Print(flags, node.inventory(), label.name, change, false);
  return 0;
}

// Hooks stop what holds the GPUs, so who uses them is looked at only after they ran. `wanted` is
// the change without regard to anybody.
Result<MigChange> Change(const MigHookRuns& hooks, MigNode& node, const MigConfigLabel& label,
                         const MigChange& wanted, const LayoutOptions& options) {
  for (const MigHookPoint point : {MigHookPoint::kPreApplyMode, MigHookPoint::kPreApplyConfig}) {
    if (CallsFor(wanted, point)) RETURN_IF_ERROR(hooks.Run(point));
  }
  RETURN_IF_ERROR(node.Look());
  ASSIGN_OR_RETURN(MigChange change, PlanMigChange(node.inventory(), label, node.Use(), options));
  RETURN_IF_ERROR(node.Apply(change));
  return change;
}

Result<int> ApplyLabel(const MigFlags& flags) {
  if (flags.dry_run) return ShowPlan(flags);
  const LayoutOptions options{.mode_only = flags.mode_only};
  ASSIGN_OR_RETURN(const MigConfigLabel label, LoadMigLabel(flags));
  ASSIGN_OR_RETURN(const MigHookRuns hooks, HooksFor(flags, label.name));
  ASSIGN_OR_RETURN(MigNode node, MigNode::Find(flags, MigNode::For::kChange));
  // What can't be on this node at all is said before any service is stopped for it.
  ASSIGN_OR_RETURN(const MigChange wanted, PlanMigChange(node.inventory(), label, {}, options));
  RETURN_IF_ERROR(hooks.Run(MigHookPoint::kApplyStart));
  const Result<MigChange> change = Change(hooks, node, label, wanted, options);
  const Status left = hooks.Run(MigHookPoint::kApplyExit);
  if (!change && !left) fmt::print(stderr, "sublet: {}\n", left.error().message);
  RETURN_IF_ERROR(change);
  Print(flags, node.inventory(), label.name, *change, true);
  RETURN_IF_ERROR(left);
  return 0;
}

}  // namespace

void AddMigApply(Program& program, CLI::App& mig) {
  auto flags = std::make_shared<MigFlags>();
  CLI::App* const apply =
      mig.add_subcommand("apply", "Make the MIG instances that a mig-parted file asks for");
  AddMigFileFlags(*apply, *flags);
  apply->add_option("-k,--hooks-file", flags->hooks, "mig-parted's hooks, run around the change")
      ->type_name("FILE")
      ->envname("MIG_PARTED_HOOKS_FILE");
  apply->add_flag("--dry-run", flags->dry_run, "Say what would be done, and do nothing");
  apply->add_flag("--json", flags->json, "Print JSON for programs");
  AddMigNodeFlags(*apply, *flags);
  apply->footer(
      "An instance that is at its place stays untouched, one in use is never destroyed. What was\n"
      "done is read back; where a step fails, all of it is undone.");
  apply->callback([&program, flags] { program.chosen = [flags] { return ApplyLabel(*flags); }; });
}

void AddMigPlan(Program& program, CLI::App& mig) {
  auto flags = std::make_shared<MigFlags>();
  flags->dry_run = true;
  CLI::App* const plan = mig.add_subcommand(
      "plan", "Show the steps to what a mig-parted file asks for, and why what stays stays");
  AddMigFileFlags(*plan, *flags);
  plan->add_flag("--json", flags->json, "Print JSON for programs");
  AddMigNodeFlags(*plan, *flags);
  plan->callback([&program, flags] { program.chosen = [flags] { return ShowPlan(*flags); }; });
}

}  // namespace sublet
