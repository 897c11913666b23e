// exe/program.h
//
// The command line: one file a verb, each adding its subcommand.
//
// A verb's file parses its own flags and wires modules together; what it decides lies in the
// modules. It sets Program::chosen when it is the one asked for:
//
//   void AddInspectVerb(Program& program) {
//     auto flags = std::make_shared<Flags>();
//     CLI::App* verb = program.app.add_subcommand("inspect", "Show what is in this node");
//     verb->add_flag("--json", flags->json, "Print JSON for programs");
//     verb->callback([&program, flags] { program.chosen = [flags] { return Inspect(*flags); }; });
//   }
//
// chosen() returns the exit status (0, or 1 where the answer is "no"), or an Error, which main()
// prints once and turns into its exit status (base/result.h). Results go to standard output,
// everything else to standard error.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"

namespace sublet {

struct Program {
  CLI::App app{"One GPU for many tenants, and what it costs each of them", "sublet"};
  std::function<Result<int>()> chosen;
  // Verbs that a command follows, after "--". It is cut off before the flags are parsed, since it
  // is another program's: a word of it may look like a flag or a list of ours.
  std::set<std::string, std::less<>> before_command;
  std::vector<std::string> command;
  // All that this program was called with, its name first.
  std::vector<std::string> words;
};

// Colours are for a person at a terminal who hasn't said otherwise (no-color.org).
bool WantsColour();

// The flag of all verbs that talk to the node's daemon (exe/node_place.h).
void AddSocketOption(CLI::App& verb, std::string& socket);

// "2026-11-21T10:00:00Z": for what a file says of itself.
std::string UtcNow();

void AddInspectVerb(Program& program);
void AddModesVerb(Program& program);
void AddMeasureVerb(Program& program);
void AddProfileVerb(Program& program);
void AddPlanVerb(Program& program);
void AddRenderVerb(Program& program);
void AddMigVerb(Program& program);
void AddDaemonVerb(Program& program);
void AddRunVerb(Program& program);
void AddUpVerb(Program& program);
void AddDownVerb(Program& program);
void AddPsVerb(Program& program);
void AddLogsVerb(Program& program);
void AddEventsVerb(Program& program);
void AddRestartVerb(Program& program);
void AddTopVerb(Program& program);
void AddRouteVerb(Program& program);
void AddKubeVerb(Program& program);
void AddMeasureWorkerVerb(Program& program);  // Hidden.
void AddMpsProbeVerb(Program& program);       // Hidden.

}  // namespace sublet
