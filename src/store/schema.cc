#include "store/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "store/table.h"

namespace sublet::store {
namespace {

constexpr std::int64_t kApplicationId = 0x53424c54;  // "SBLT", for file(1) and for us.

Result<std::int64_t> ReadNumber(Database& database, std::string_view pragma) {
  ASSIGN_OR_RETURN(const std::optional<Value> value, database.First(pragma));
  const auto* number = value ? std::get_if<std::int64_t>(&*value) : nullptr;
  if (number == nullptr) return database.Damaged(pragma);
  return *number;
}

Status SetVersion(Database& database, std::int64_t version) {
  return database.Execute(fmt::format("PRAGMA user_version = {}", version));
}

// SQLite would work with tables that have other columns by the same names, or one that was left
// out, until somebody uses it.
Status CompareTables(Database& database) {
  std::map<std::string, std::string> wanted;
  for (const Table& table : kTables) wanted[std::string(table.name)] = CreateStatement(table);
  std::map<std::string, std::string> found;
  ASSIGN_OR_RETURN(Query query, database.Prepare("SELECT name, sql FROM sqlite_schema"));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) break;
    found[query.Text(0)] = query.Text(1);
  }
  if (found != wanted) return database.Damaged("its tables aren't those of its version");
  return {};
}

}  // namespace

std::span<const Migration> Migrations() {
  return {};  // Version 1 is the first.
}

Status MakeSchema(Database& database) {
  return database.Atomically([&]() -> Status {
    for (const Table& table : kTables) RETURN_IF_ERROR(database.Execute(CreateStatement(table)));
    RETURN_IF_ERROR(database.Execute(fmt::format("PRAGMA application_id = {}", kApplicationId)));
    return SetVersion(database, kSchemaVersion);
  });
}

Status BringSchemaUp(Database& database, std::span<const Migration> migrations) {
  ASSIGN_OR_RETURN(const std::int64_t application, ReadNumber(database, "PRAGMA application_id"));
  if (application != kApplicationId) return database.Damaged("it isn't a node's state");
  ASSIGN_OR_RETURN(const std::int64_t found, ReadNumber(database, "PRAGMA user_version"));
  std::int64_t version = found;
  const Status status = database.Atomically([&]() -> Status {
    while (version != kSchemaVersion) {
      const auto next =
          std::find_if(migrations.begin(), migrations.end(),
                       [&](const Migration& migration) { return migration.from == version; });
      if (version > kSchemaVersion || next == migrations.end()) {
        return Fail(ErrorCode::kConflict,
                    fmt::format("the node's state was written by version {} of its format, and "
                                "this program reads version {}",
                                found, kSchemaVersion),
                    "use the Sublet that wrote it, or `sublet daemon --rebuild`, which sets it "
                    "aside and makes a new one from what the driver shows");
      }
      RETURN_IF_ERROR(next->change(database));
      RETURN_IF_ERROR(SetVersion(database, ++version));
    }
    return {};
  });
  RETURN_IF_ERROR(status);
  return CompareTables(database);
}

}  // namespace sublet::store
