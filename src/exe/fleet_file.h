// exe/fleet_file.h
//
// From the files that a user names to a plan: what `sublet plan` and `sublet up` have in common.
//
//   ASSIGN_OR_RETURN(PlanInputs inputs, ReadPlanInputs({.fleet = "fleet.yaml"}));
//   PlanRequest request = inputs.Request();
//   request.node = &node;
//   ASSIGN_OR_RETURN(const Plan plan, MakePlan(request));
#pragma once

#include <string>

#include "base/result.h"
#include "model/board.h"
#include "model/calibration.h"
#include "model/fleet.h"
#include "plan/planner.h"

namespace sublet {

// Paths; "-" is standard input. What is empty is built in.
struct PlanFiles {
  std::string fleet;
  std::string calibration = {};
  std::string boards = {};  // Over the built-in ones.
};

struct PlanInputs {
  Fleet fleet;
  BoardCatalogue catalogue;
  Calibration calibration;

  // Points into this object.
  PlanRequest Request() const;
};

// Files that the fleet names are looked for beside it.
Result<PlanInputs> ReadPlanInputs(const PlanFiles& files);
// The same for a fleet that was read already.
Result<PlanInputs> ParsePlanInputs(const std::string& fleet_text, const PlanFiles& files);

}  // namespace sublet
