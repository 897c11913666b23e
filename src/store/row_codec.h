// store/row_codec.h
//
// The rows of store/node_record.h as the columns of store/table.h, and back.
//
//   const Values values = ToValues(row);
//   ASSIGN_OR_RETURN(ShareRow again, ShareFromValues(values));
//
// The way back fails with kInvalid where a column has something else than it should. That doesn't
// come from the disk, as a row's checksum is looked at first, but from a program that wrote it.
//
// Thread safety: functions of values.
#pragma once

#include "base/result.h"
#include "store/database.h"
#include "store/node_record.h"

namespace sublet::store {

Values ToValues(const ShareRow& row);
Result<ShareRow> ShareFromValues(const Values& values);

Values ToValues(const DomainRow& row);
Result<DomainRow> DomainFromValues(const Values& values);

Values ToValues(const MigInstanceRow& row);
Result<MigInstanceRow> MigInstanceFromValues(const Values& values);

Values ToValues(const MigStepRow& row);
Result<MigStepRow> MigStepFromValues(const Values& values);

Values ToValues(const PlanRow& row);
Result<PlanRow> PlanFromValues(const Values& values);

Values ToValues(const OperationRow& row);
Result<OperationRow> OperationFromValues(const Values& values);

Values ToValues(const ReplicaRow& row);
Result<ReplicaRow> ReplicaFromValues(const Values& values);

Values ToValues(const NodeEvent& event);
Result<NodeEvent> EventFromValues(const Values& values);

}  // namespace sublet::store
