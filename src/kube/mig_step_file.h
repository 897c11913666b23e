// kube/mig_step_file.h
//
// The steps of a MIG change that has begun, in a file, so that a change that fails after a crash
// can be undone from where it began and not from where it was killed.
//
//   MigStepFile journal("/var/lib/sublet/kube/mig-steps.json");
//   ASSIGN_OR_RETURN(const auto left, journal.Left());     // Of a run that was killed.
//   ... ApplyTargets(api, steps, targets, journal, patience) ...
//   RETURN_IF_ERROR(journal.Clear());
//
// With an empty path nothing is written and nothing is left.
//
// Thread safety: one thread at a time; one process for each file.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "mig/mig_apply.h"

namespace sublet {

class MigStepFile final : public MigJournal {
 public:
  explicit MigStepFile(std::string path) : path_(std::move(path)) {}

  // The steps that were begun and neither finished nor cleared. A file that can't be read as steps,
  // as after a torn disk, is kInvalid; Clear() gets rid of it.
  Result<std::vector<MigStep>> Left();

  Status WillDo(const MigStep& step) override;
  void Done(const MigStep& step) override;

  // The change has come to its end.
  Status Clear();

 private:
  std::string path_;
  std::vector<MigStep> begun_;
};

}  // namespace sublet
