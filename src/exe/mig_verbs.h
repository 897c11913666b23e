// exe/mig_verbs.h
//
// The verbs under `sublet mig`, each added by the file that has it. See exe/program.h.
#pragma once

#include <CLI/CLI.hpp>

#include "exe/program.h"

namespace sublet {

void AddMigApply(Program& program, CLI::App& mig);
void AddMigPlan(Program& program, CLI::App& mig);
void AddMigAssert(Program& program, CLI::App& mig);
void AddMigExport(Program& program, CLI::App& mig);

}  // namespace sublet
