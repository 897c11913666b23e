#include "store/node_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "store/database.h"
#include "store/row_codec.h"
#include "store/schema.h"
#include "store/state_directory.h"
#include "store/table.h"

namespace sublet {

using store::Database;
using store::kDomainTable;
using store::kEventTable;
using store::kMigInstanceTable;
using store::kMigStepTable;
using store::kNoteTable;
using store::kOperationTable;
using store::kPlanTable;
using store::kReplicaTable;
using store::kShareTable;
using store::PutRow;
using store::Query;
using store::ReadRows;
using store::RemoveAllRows;
using store::RemoveRow;
using store::StateDirectory;
using store::Table;
using store::ToValues;
using store::Value;
using store::Values;

namespace {

constexpr std::string_view kBootId = "boot_id";
constexpr std::string_view kNodeName = "node_name";
constexpr std::string_view kLastShare = "last_share";  // The greatest number that was taken.

// A program's last words may stand in an event, and have no end.
constexpr std::size_t kEventMessageBytesMax = 4096;

// Whether a UTF-8 character began before this byte.
bool IsInsideCharacter(char byte) {
  return (static_cast<unsigned char>(byte) & 0xc0) == 0x80;
}

Status MakeDatabase(const StateDirectory& folder) {
  RETURN_IF_ERROR(folder.BeginDraft());
  {
    ASSIGN_OR_RETURN(Database draft, Database::Open(folder.draft()));
    RETURN_IF_ERROR(MakeSchema(draft));
  }
  return folder.PublishDraft();
}

}  // namespace

class NodeStore::Tables {
 public:
  Tables(StateDirectory folder, Database opened)
      : folder_(std::move(folder)), db(std::move(opened)) {}

  // The note's value; empty where it was never written.
  Result<std::string> ReadNote(std::string_view name) {
    ASSIGN_OR_RETURN(Query query, db.Prepare("SELECT * FROM note WHERE name = ?"));
    query.Bind(name);
    ASSIGN_OR_RETURN(const bool found, query.Step());
    if (!found) return std::string();
    ASSIGN_OR_RETURN(const Values row, CheckedRow(db, kNoteTable, query));
    return std::get<std::string>(row.at(1));
  }

  Status WriteNote(std::string_view name, std::string value) {
    return PutRow(db, kNoteTable, {std::string(name), std::move(value)});
  }

  Result<std::int64_t> LastShare() {
    ASSIGN_OR_RETURN(const std::string text, ReadNote(kLastShare));
    std::int64_t number = 0;
    std::from_chars(text.data(), text.data() + text.size(), number);
    return number;
  }

  Result<std::int64_t> LastEvent() {
    ASSIGN_OR_RETURN(const std::optional<Value> last, db.First("SELECT max(sequence) FROM event"));
    const auto* number = last ? std::get_if<std::int64_t>(&*last) : nullptr;
    return number == nullptr ? 0 : *number;
  }

  // All rows of a table, each made by `parse`, which is Result<Row>(const Values&).
  template <typename Row>
  Status Read(const Table& table, Result<Row> (*parse)(const Values&), std::vector<Row>& rows) {
    return ReadRows(db, table, [&](const Values& values) -> Status {
      ASSIGN_OR_RETURN(Row row, Parsed(table, parse(values)));
      rows.push_back(std::move(row));
      return {};
    });
  }

  template <typename Row>
  Status Read(const Table& table, Result<Row> (*parse)(const Values&), std::optional<Row>& only) {
    std::vector<Row> rows;
    RETURN_IF_ERROR(Read(table, parse, rows));
    if (!rows.empty()) only = std::move(rows.front());
    return {};
  }

  template <typename Row>
  Result<Row> Parsed(const Table& table, Result<Row> row) const {
    if (!row) return db.Damaged(fmt::format("table {}: {}", table.name, row.error().message));
    return row;
  }

 private:
  StateDirectory folder_;  // Before the database: its lock must be the last that goes.

 public:
  Database db;
};

NodeStore::NodeStore(std::unique_ptr<Tables> tables) : tables_(std::move(tables)) {}
NodeStore::NodeStore(NodeStore&& other) noexcept = default;
NodeStore& NodeStore::operator=(NodeStore&& other) noexcept = default;
NodeStore::~NodeStore() = default;

Result<NodeStore> NodeStore::Open(const std::string& directory, NodeStoreOptions options) {
  ASSIGN_OR_RETURN(StateDirectory folder, StateDirectory::Enter(directory, options.create));
  ASSIGN_OR_RETURN(const bool there, folder.HasDatabase());
  if (!there && !options.create) {
    return Fail(ErrorCode::kNotFound, fmt::format("there is no node's state in {}", directory));
  }
  if (!there) RETURN_IF_ERROR(MakeDatabase(folder));
  ASSIGN_OR_RETURN(Database database, Database::Open(folder.database()));
  RETURN_IF_ERROR(database.QuickCheck());
  RETURN_IF_ERROR(store::BringSchemaUp(database, store::Migrations()));
  RETURN_IF_ERROR(database.StartLog());
  return NodeStore(std::make_unique<Tables>(std::move(folder), std::move(database)));
}

Result<std::string> NodeStore::SetAside(const std::string& directory) {
  ASSIGN_OR_RETURN(const StateDirectory folder, StateDirectory::Enter(directory, false));
  return folder.SetAside();
}

Result<NodeRecord> NodeStore::LoadAll() {
  NodeRecord record;
  ASSIGN_OR_RETURN(record.boot_id, tables_->ReadNote(kBootId));
  ASSIGN_OR_RETURN(record.node_name, tables_->ReadNote(kNodeName));
  RETURN_IF_ERROR(tables_->LastShare());
  RETURN_IF_ERROR(tables_->Read(kShareTable, store::ShareFromValues, record.shares));
  RETURN_IF_ERROR(tables_->Read(kDomainTable, store::DomainFromValues, record.domains));
  RETURN_IF_ERROR(tables_->Read(kMigInstanceTable, store::MigInstanceFromValues, record.instances));
  RETURN_IF_ERROR(tables_->Read(kMigStepTable, store::MigStepFromValues, record.mig_steps));
  RETURN_IF_ERROR(tables_->Read(kPlanTable, store::PlanFromValues, record.plan));
  RETURN_IF_ERROR(tables_->Read(kOperationTable, store::OperationFromValues, record.operation));
  RETURN_IF_ERROR(tables_->Read(kReplicaTable, store::ReplicaFromValues, record.replicas));
  // The events aren't kept in memory, but a damaged one should be found now and not in a year.
  RETURN_IF_ERROR(ReadRows(tables_->db, kEventTable, [&](const Values& values) -> Status {
    ASSIGN_OR_RETURN(const NodeEvent event,
                     tables_->Parsed(kEventTable, store::EventFromValues(values)));
    record.last_event = event.sequence;
    return {};
  }));
  return record;
}

Status NodeStore::Transaction(const std::function<Status()>& change) {
  return tables_->db.Atomically(change);
}

Status NodeStore::Flush() {
  return tables_->db.Flush();
}

Status NodeStore::SetBootId(std::string_view boot_id) {
  return tables_->WriteNote(kBootId, std::string(boot_id));
}

Status NodeStore::SetNodeName(std::string_view node_name) {
  return tables_->WriteNote(kNodeName, std::string(node_name));
}

Result<std::string> NodeStore::TakeShareId() {
  ASSIGN_OR_RETURN(const std::int64_t last, tables_->LastShare());
  RETURN_IF_ERROR(tables_->WriteNote(kLastShare, std::to_string(last + 1)));
  return fmt::format("s{}", last + 1);
}

Status NodeStore::SkipShareIds(std::int64_t up_to) {
  ASSIGN_OR_RETURN(const std::int64_t last, tables_->LastShare());
  if (up_to <= last) return {};
  return tables_->WriteNote(kLastShare, std::to_string(up_to));
}

Status NodeStore::PutShare(const ShareRow& row) {
  return PutRow(tables_->db, kShareTable, ToValues(row));
}

Status NodeStore::RemoveShare(std::string_view id) {
  return RemoveRow(tables_->db, kShareTable, {std::string(id)});
}

Status NodeStore::PutDomain(const DomainRow& row) {
  return PutRow(tables_->db, kDomainTable, ToValues(row));
}

Status NodeStore::RemoveDomain(std::string_view name) {
  return RemoveRow(tables_->db, kDomainTable, {std::string(name)});
}

Status NodeStore::PutMigInstance(const MigInstanceRow& row) {
  return PutRow(tables_->db, kMigInstanceTable, ToValues(row));
}

Status NodeStore::RemoveMigInstance(std::string_view gpu_uuid, int start) {
  return RemoveRow(tables_->db, kMigInstanceTable, {std::string(gpu_uuid), std::int64_t{start}});
}

Status NodeStore::PutMigStep(const MigStepRow& row) {
  return PutRow(tables_->db, kMigStepTable, ToValues(row));
}

Status NodeStore::ClearMigSteps() {
  return RemoveAllRows(tables_->db, kMigStepTable);
}

Status NodeStore::PutPlan(const PlanRow& row) {
  return PutRow(tables_->db, kPlanTable, ToValues(row));
}

Status NodeStore::RemovePlan() {
  return RemoveAllRows(tables_->db, kPlanTable);
}

Status NodeStore::PutOperation(const OperationRow& row) {
  std::optional<OperationRow> current;
  RETURN_IF_ERROR(tables_->Read(kOperationTable, store::OperationFromValues, current));
  if (current && current->id != row.id) {
    return Fail(ErrorCode::kConflict,
                fmt::format("another operation is under way: {} ({}, since {})", current->id,
                            OperationKindName(current->kind), current->started_at),
                "wait until it has ended");
  }
  return PutRow(tables_->db, kOperationTable, ToValues(row));
}

Status NodeStore::RemoveOperation() {
  return RemoveAllRows(tables_->db, kOperationTable);
}

Status NodeStore::PutReplica(const ReplicaRow& row) {
  return PutRow(tables_->db, kReplicaTable, ToValues(row));
}

Status NodeStore::RemoveReplica(std::string_view id) {
  return RemoveRow(tables_->db, kReplicaTable, {std::string(id)});
}

Result<std::int64_t> NodeStore::AppendEvent(const NodeEvent& event) {
  NodeEvent numbered = event;
  if (numbered.message.size() > kEventMessageBytesMax) {
    std::size_t length = kEventMessageBytesMax;
    while (length > 0 && IsInsideCharacter(numbered.message[length])) --length;
    numbered.message = fmt::format("{}...", numbered.message.substr(0, length));
  }
  const Status appended = Transaction([&]() -> Status {
    ASSIGN_OR_RETURN(const std::int64_t last, tables_->LastEvent());
    numbered.sequence = last + 1;
    RETURN_IF_ERROR(PutRow(tables_->db, kEventTable, ToValues(numbered)));
    if (numbered.sequence <= kEventsMax) return {};
    ASSIGN_OR_RETURN(Query drop, tables_->db.Prepare("DELETE FROM event WHERE sequence <= ?"));
    drop.Bind(numbered.sequence - kEventsMax);
    return drop.Run();
  });
  RETURN_IF_ERROR(appended);
  return numbered.sequence;
}

Result<std::vector<NodeEvent>> NodeStore::EventsAfter(std::int64_t sequence,
                                                      std::size_t count_max) {
  ASSIGN_OR_RETURN(
      Query query,
      tables_->db.Prepare("SELECT * FROM event WHERE sequence > ? ORDER BY sequence LIMIT ?"));
  query.Bind(sequence).Bind(
      static_cast<std::int64_t>(std::min<std::size_t>(count_max, std::size_t{kEventsMax})));
  std::vector<NodeEvent> events;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) return events;
    ASSIGN_OR_RETURN(const Values values, CheckedRow(tables_->db, kEventTable, query));
    ASSIGN_OR_RETURN(NodeEvent event, tables_->Parsed(kEventTable, store::EventFromValues(values)));
    events.push_back(std::move(event));
  }
}

}  // namespace sublet
