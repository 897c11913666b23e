#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>
#include <system_error>

#include "exe/program.h"

namespace sublet {

bool WantsColour() {
  const char* const no_colour = std::getenv("NO_COLOR");
  return ::isatty(STDOUT_FILENO) != 0 && (no_colour == nullptr || *no_colour == '\0');
}

void AddSocketOption(CLI::App& verb, std::string& socket) {
  verb.add_option("--socket", socket,
                  "The node daemon's socket (also SUBLET_SOCKET; default: the system's, else "
                  "this user's)")
      ->type_name("PATH");
}

std::string UtcNow() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[sizeof "2026-11-21T10:00:00Z"];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

namespace {

int Report(const Error& error) {
  fmt::print(stderr, "sublet: {}\n", error.message);
  if (!error.hint.empty()) fmt::print(stderr, "  hint: {}\n", error.hint);
  return ExitStatus(error.code);
}

// Takes the command behind "--" off the arguments of a verb that has one; returns how many are
// left.
int CutCommand(Program& program, int argc, char** argv) {
  if (argc < 2 || !program.before_command.contains(argv[1])) return argc;
  char** const end = argv + argc;
  char** const mark =
      std::find_if(argv + 2, end, [](const char* word) { return std::strcmp(word, "--") == 0; });
  if (mark == end) return argc;
  program.command.assign(mark + 1, end);
  return static_cast<int>(mark - argv);
}

int Main(int argc, char** argv) {
  Program program;
  program.app.set_version_flag("--version", "sublet " SUBLET_VERSION);
  program.app.require_subcommand(1);
  AddInspectVerb(program);
  AddModesVerb(program);
  AddMeasureVerb(program);
  AddProfileVerb(program);
  AddPlanVerb(program);
  AddRenderVerb(program);
  AddMigVerb(program);
  AddDaemonVerb(program);
  AddRunVerb(program);
  AddUpVerb(program);
  AddDownVerb(program);
  AddPsVerb(program);
  AddLogsVerb(program);
  AddEventsVerb(program);
  AddRestartVerb(program);
  AddTopVerb(program);
  AddRouteVerb(program);
  AddKubeVerb(program);
  AddMeasureWorkerVerb(program);
  AddMpsProbeVerb(program);
  program.words.assign(argv, argv + argc);
  argc = CutCommand(program, argc, argv);
  try {
    program.app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int status = program.app.exit(error);
    return status == 0 ? 0 : ExitStatus(ErrorCode::kUsage);
  }
  const Result<int> result = program.chosen();
  // What was printed may still be in a buffer, and may not arrive.
  if (std::fflush(stdout) != 0) {
    return Report(Error{ErrorCode::kIo, "writing to standard output failed", ""});
  }
  return result ? *result : Report(result.error());
}

}  // namespace
}  // namespace sublet

int main(int argc, char** argv) {
  // What arrives here is a bug or memory exhausted: one line, not a stack trace.
  try {
    return sublet::Main(argc, argv);
  } catch (const std::system_error& error) {
    // fmt::print() throws this one where standard output can't be written.
    fmt::print(stderr, "sublet: {}\n", error.what());
    return sublet::ExitStatus(sublet::ErrorCode::kIo);
  } catch (const std::exception& error) {
    fmt::print(stderr, "sublet: internal error: {}\n", error.what());
    return sublet::ExitStatus(sublet::ErrorCode::kInternal);
  }
}
