// store/schema.h
//
// Which version of the tables a database has, and how it comes to this program's.
//
//   RETURN_IF_ERROR(MakeSchema(draft));
//   RETURN_IF_ERROR(BringSchemaUp(database, Migrations()));
//
// Whoever changes a table (store/table.h) raises kSchemaVersion and adds the migration from the
// version before. An older program refuses what a newer one wrote: it can't know what it would
// lose.
//
// Thread safety: functions of one database, one thread at a time.
#pragma once

#include <functional>
#include <span>

#include "base/result.h"
#include "store/database.h"

namespace sublet::store {

inline constexpr int kSchemaVersion = 1;

// From version `from` to the next.
struct Migration {
  int from = 0;
  std::function<Status(Database&)> change;
};
std::span<const Migration> Migrations();

// All tables, in an empty database.
Status MakeSchema(Database& database);

// Does what is missing in one transaction. Fails with kConflict where no migration leads to this
// program's version; kInvalid where the database isn't Sublet's, or hasn't its version's tables.
Status BringSchemaUp(Database& database, std::span<const Migration> migrations);

}  // namespace sublet::store
