// `sublet render PLAN --target TARGET -o FOLDER`: a plan as the files that other programs read.

#include "render/render.h"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "base/files.h"
#include "exe/program.h"
#include "model/document.h"
#include "model/plan.h"
#include "render/output_folder.h"

namespace sublet {
namespace {

struct Flags {
  std::string plan;
  std::string target;
  std::string folder;
  bool lossy = false;
  bool force = false;
};

Result<int> RenderPlan(const Flags& flags) {
  ASSIGN_OR_RETURN(const Target target, ParseTarget(flags.target));
  ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.plan, kDocumentBytesMax));
  ASSIGN_OR_RETURN(const Plan plan, ParsePlan(text, flags.plan));
  ASSIGN_OR_RETURN(const Rendering rendering, Render(plan, target, {.lossy = flags.lossy}));
  RETURN_IF_ERROR(WriteRendering(rendering, target, flags.folder, {.force = flags.force}));
  for (const std::string& warning : rendering.warnings) {
    fmt::print(stderr, "sublet: warning: {}\n", warning);
  }
  const std::string slash = flags.folder.ends_with('/') ? "" : "/";
  for (const RenderedFile& file : rendering.files) {
    fmt::print("{}{}{}\n", flags.folder, slash, file.path);
  }
  return 0;
}

std::string TargetNames() {
  std::string names;
  for (const Target target : AllTargets()) {
    if (!names.empty()) names += ", ";
    names += TargetName(target);
  }
  return names;
}

}  // namespace

void AddRenderVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand("render", "Write a plan as files for other programs");
  verb->add_option("PLAN", flags->plan, "Plan, from sublet plan -o; '-' reads standard input")
      ->required();
  verb->add_option("--target", flags->target, "One of " + TargetNames())->required();
  verb->add_option("-o,--output", flags->folder, "Folder for the files; made where missing")
      ->required();
  verb->add_flag("--lossy", flags->lossy,
                 "Leave out what the target can't express, and say so in the files");
  verb->add_flag("--force", flags->force, "Replace files that sublet render didn't write");
  verb->callback([&program, flags] { program.chosen = [flags] { return RenderPlan(*flags); }; });
}

}  // namespace sublet
