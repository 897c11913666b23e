// exe/kube_verbs.h
//
// The verbs under `sublet kube`, each added by the file that has it. See exe/program.h.
#pragma once

#include <CLI/CLI.hpp>

#include "exe/program.h"

namespace sublet {

void AddKubeCdi(Program& program, CLI::App& kube);
void AddKubeLabels(Program& program, CLI::App& kube);
void AddKubeAgent(Program& program, CLI::App& kube);
void AddKubeMigManager(Program& program, CLI::App& kube);
void AddKubePlugin(Program& program, CLI::App& kube);

}  // namespace sublet
