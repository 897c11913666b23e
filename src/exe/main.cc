#include <fmt/format.h>

#include <exception>

#include "exe/program.h"

namespace sublet {
namespace {

int Report(const Error& error) {
  fmt::print(stderr, "sublet: {}\n", error.message);
  if (!error.hint.empty()) fmt::print(stderr, "  hint: {}\n", error.hint);
  return ExitStatus(error.code);
}

int Main(int argc, char** argv) {
  Program program;
  program.app.set_version_flag("--version", "sublet " SUBLET_VERSION);
  program.app.require_subcommand(1);
  AddInspectVerb(program);
  AddModesVerb(program);
  AddPlanVerb(program);
  AddRenderVerb(program);
  AddMigVerb(program);
  try {
    program.app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int status = program.app.exit(error);
    return status == 0 ? 0 : ExitStatus(ErrorCode::kUsage);
  }
  const Result<int> result = program.chosen();
  return result ? *result : Report(result.error());
}

}  // namespace
}  // namespace sublet

int main(int argc, char** argv) {
  // What arrives here is a bug or memory exhausted: one line, not a stack trace.
  try {
    return sublet::Main(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "sublet: internal error: {}\n", error.what());
    return sublet::ExitStatus(sublet::ErrorCode::kInternal);
  }
}
