// sim/engine/fault_table.h
//
// The faults that a simulated engine has been told and not yet had.
//
//   faults.Arm({.what = SimFault::What::kReset, .times = 2});
//   ASSIGN_OR_RETURN(const auto fault, faults.Take(exchange->Header("x-sim-fault")));
//
// Those of answers come one after the other, in the order in which they were told.
//
// Thread safety: its owner's.
#pragma once

#include <deque>
#include <optional>
#include <string_view>

#include "engine/sim_fault.h"

namespace sublet {

class FaultTable {
 public:
  // REQUIRES: not kRestart, which is no state.
  void Arm(const SimFault& fault);
  void Clear();

  // The fault of the next request: its header's, else the next one told. kInvalid: the header's is
  // none, or not one of answers.
  Result<std::optional<SimFault>> Take(std::string_view header);

  bool events_stopped() const { return events_stopped_; }
  // Whether the next batch of events is to be lost; counts it.
  bool LosesBatch();

 private:
  std::deque<SimFault> answers_;
  bool events_stopped_ = false;
  int batches_to_lose_ = 0;
};

}  // namespace sublet
