// exe/mig_hook_runs.h
//
// Runs the hooks of a mig-parted hooks file, as mig-parted itself would.
//
//   MigHookRuns hooks(std::move(parsed), variables);
//   RETURN_IF_ERROR(hooks.Run(MigHookPoint::kApplyStart));
//
// A hook's environment is its own `envs` and mig-parted's variables (MIG_PARTED_CONFIG_FILE, ...),
// nothing else. What it prints is kept for the error of one that fails.
//
// Thread safety: one thread.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "base/result.h"
#include "model/mig_hooks.h"

namespace sublet {

class MigHookRuns {
 public:
  MigHookRuns() = default;  // No hooks.
  MigHookRuns(MigHooks hooks, std::map<std::string, std::string> variables)
      : hooks_(std::move(hooks)), variables_(std::move(variables)) {}

  // One after the other. Fails with kConflict where one fails, with the last line that it wrote to
  // standard error; those after it aren't run.
  Status Run(MigHookPoint point) const;

 private:
  MigHooks hooks_;
  std::map<std::string, std::string> variables_;
};

}  // namespace sublet
