// mig/mig_apply.h
//
// Does the steps of a MIG change, each read back, and all of them undone where one fails.
//
//   ASSIGN_OR_RETURN(const auto steps, StepsForNode(node, targets, use));
//   RETURN_IF_ERROR(ApplySteps(nvml.api(), steps, journal, {}));
//   RETURN_IF_ERROR(VerifyTargets(nvml.api(), targets));
//
// Or ApplyTargets(), which is both, and undoes the steps where the result isn't the target.
//
// What may surprise:
//  - What counts is what is read back, not what a call answered: a step whose call failed, but
//  which
//    is done, is done.
//  - UndoSteps() looks at what is there and needs no memory of what happened. So after a crash it
//    is given all steps whose intent was journalled, the last of which may or may not have begun.
//  - An instance that was destroyed and made again at its place has the same profile, but may have
//    another UUID.
//  - Where the mode of a board can't be changed without a reset, the request is taken back and the
//    error says what to do.
//
// Thread safety: one change at a time for each GPU; nothing is shared.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "inventory/nvml_library.h"
#include "mig/mig_change.h"

namespace sublet {

// Hears of each step before and after it is done, so that what was begun is known after a crash.
class MigJournal {
 public:
  virtual ~MigJournal() = default;
  // The step is about to be done. Where this fails, it isn't, and those before it are undone.
  virtual Status WillDo(const MigStep& step) = 0;
  virtual void Done(const MigStep& step) = 0;
};

// For those who live without.
class NoMigJournal final : public MigJournal {
 public:
  Status WillDo(const MigStep& /*step*/) override { return {}; }
  void Done(const MigStep& /*step*/) override {}
};

struct MigPatience {
  // For processes that are about to end: the driver shows them for a moment longer.
  double in_use_s = 2;
};

// Fails with the error of the step that failed, after undoing those done before it. Where that
// fails too, the error is kUnavailable, says what is left, and its hint has the commands that undo
// it.
Status ApplySteps(const nvml::Api& api, std::span<const MigStep> steps, MigJournal& journal,
                  const MigPatience& patience);

// Takes the steps back, the last first; what isn't done, or undone already, is passed over. It goes
// on after a failure, and then fails with kUnavailable, what is left, and the commands for it.
Status UndoSteps(const nvml::Api& api, std::span<const MigStep> steps, const MigPatience& patience);

// Reads the whole GPU back. Fails with kConflict and all differences.
Status VerifyTarget(const nvml::Api& api, const MigTarget& target);

// ApplySteps() and VerifyTarget() of each target; where that fails, UndoSteps().
Status ApplyTargets(const nvml::Api& api, std::span<const MigStep> steps,
                    std::span<const MigTarget> targets, MigJournal& journal,
                    const MigPatience& patience);

}  // namespace sublet
