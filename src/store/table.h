// store/table.h
//
// The tables of node.db, and the rows in them.
//
//   RETURN_IF_ERROR(PutRow(db, kShareTable, {"s17", text, "creating", 0, ...}));
//   RETURN_IF_ERROR(RemoveRow(db, kShareTable, {"s17"}));
//   RETURN_IF_ERROR(ReadRows(db, kShareTable, [&](const Values& row) { ... }));
//
// Behind the columns that its table lists, every row has a checksum of them. SQLite notices when
// the disk has changed the structure of its file, but takes a changed byte of a text for the text.
//
// Thread safety: functions of one database, one thread at a time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "store/database.h"

namespace sublet::store {

struct Table {
  std::string_view name;
  std::string_view columns;  // As CREATE TABLE has them, without the checksum.
  std::string_view key;      // One or more of them, which come first.
  std::string_view order;    // In which ReadRows() gives them.

  constexpr std::size_t width() const { return CountList(columns); }
  constexpr std::size_t key_width() const { return CountList(key); }
  static constexpr std::size_t CountList(std::string_view list) {
    return 1 + static_cast<std::size_t>(std::count(list.begin(), list.end(), ','));
  }
};

// Notes of one value each, by name.
inline constexpr Table kNoteTable{.name = "note",
                                  .columns = "name TEXT NOT NULL, value TEXT NOT NULL",
                                  .key = "name",
                                  .order = "name"};
inline constexpr Table kShareTable{
    .name = "share",
    .columns =
        "id TEXT NOT NULL, share TEXT NOT NULL, state TEXT NOT NULL, "
        "replica INTEGER NOT NULL, pid INTEGER, start_ticks INTEGER, uid INTEGER, "
        "log TEXT NOT NULL, target TEXT NOT NULL",
    .key = "id",
    .order = "length(id), id"};
inline constexpr Table kDomainTable{
    .name = "domain",
    .columns =
        "name TEXT NOT NULL, domain TEXT NOT NULL, state TEXT NOT NULL, "
        "pipe_directory TEXT NOT NULL, pid INTEGER, start_ticks INTEGER, uid INTEGER, "
        "restarts INTEGER NOT NULL, limits_confirmed INTEGER NOT NULL",
    .key = "name",
    .order = "name"};
inline constexpr Table kMigInstanceTable{
    .name = "mig_instance",
    .columns =
        "gpu_uuid TEXT NOT NULL, start INTEGER NOT NULL, profile TEXT NOT NULL, "
        "state TEXT NOT NULL, instance_id INTEGER, mig_uuid TEXT NOT NULL, "
        "made_for TEXT NOT NULL",
    .key = "gpu_uuid, start",
    .order = "gpu_uuid, start"};
inline constexpr Table kMigStepTable{
    .name = "mig_step",
    .columns = "number INTEGER NOT NULL, step TEXT NOT NULL, done INTEGER NOT NULL",
    .key = "number",
    .order = "number"};
// Tables of at most one row have a key that is always 0.
inline constexpr Table kPlanTable{.name = "plan",
                                  .columns =
                                      "only INTEGER NOT NULL CHECK (only = 0), plan TEXT NOT NULL, "
                                      "directory TEXT NOT NULL",
                                  .key = "only",
                                  .order = "only"};
inline constexpr Table kOperationTable{
    .name = "operation",
    .columns =
        "only INTEGER NOT NULL CHECK (only = 0), id TEXT NOT NULL, kind TEXT NOT NULL, "
        "from_plan TEXT, from_directory TEXT, to_plan TEXT, to_directory TEXT, "
        "direction TEXT NOT NULL, started_at TEXT NOT NULL",
    .key = "only",
    .order = "only"};
inline constexpr Table kReplicaTable{
    .name = "replica",
    .columns =
        "id TEXT NOT NULL, restarts INTEGER NOT NULL, last_end TEXT NOT NULL, "
        "wanted TEXT NOT NULL",
    .key = "id",
    .order = "id"};
inline constexpr Table kEventTable{
    .name = "event",
    .columns =
        "sequence INTEGER NOT NULL, time TEXT NOT NULL, subject_kind TEXT NOT NULL, "
        "subject TEXT NOT NULL, what TEXT NOT NULL, message TEXT NOT NULL",
    .key = "sequence",
    .order = "sequence"};

inline constexpr Table kTables[] = {kNoteTable,        kShareTable,   kDomainTable,
                                    kMigInstanceTable, kMigStepTable, kPlanTable,
                                    kOperationTable,   kReplicaTable, kEventTable};

// The statement that makes it.
std::string CreateStatement(const Table& table);

// Inserts the row, or replaces the one of its key.
Status PutRow(Database& database, const Table& table, const Values& row);
Status RemoveRow(Database& database, const Table& table, const Values& key);
Status RemoveAllRows(Database& database, const Table& table);

// Calls `take` with each row in order; its error ends the reading. Fails with kInvalid where a row
// doesn't have the content that was put.
Status ReadRows(Database& database, const Table& table,
                const std::function<Status(const Values&)>& take);

// The row that `query`, a SELECT of all columns, stands at, without its checksum.
Result<Values> CheckedRow(const Database& database, const Table& table, const Query& query);

}  // namespace sublet::store
