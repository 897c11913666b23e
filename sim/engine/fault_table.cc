#include "engine/fault_table.h"

#include <fmt/format.h>

namespace sublet {

void FaultTable::Arm(const SimFault& fault) {
  if (fault.what == SimFault::What::kEventsStop) {
    events_stopped_ = true;
  } else if (fault.what == SimFault::What::kEventsDrop) {
    batches_to_lose_ += fault.times;
  } else {
    answers_.push_back(fault);
  }
}

void FaultTable::Clear() {
  *this = FaultTable();
}

Result<std::optional<SimFault>> FaultTable::Take(std::string_view header) {
  if (!header.empty()) {
    ASSIGN_OR_RETURN(const SimFault fault, ParseSimFault(header));
    if (fault.OfAnswer()) return fault;
    return Fail(ErrorCode::kInvalid, fmt::format("not the fault of one answer: {}", header));
  }
  if (answers_.empty()) return std::nullopt;
  const SimFault fault = answers_.front();
  if (fault.times == 1) {
    answers_.pop_front();
  } else if (fault.times > 1) {
    --answers_.front().times;
  }
  return fault;
}

bool FaultTable::LosesBatch() {
  if (batches_to_lose_ == 0) return false;
  --batches_to_lose_;
  return true;
}

}  // namespace sublet
