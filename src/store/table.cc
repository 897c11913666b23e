#include "store/table.h"

#include <fmt/format.h>

#include <cstdint>

#include "base/check.h"

namespace sublet::store {
namespace {

// 64 bits of FNV-1a. Each step is a bijection of the state, so a single changed byte always shows;
// against a forger it is no help.
class Checksum {
 public:
  void Add(std::string_view bytes) {
    for (const char byte : bytes) {
      state_ = (state_ ^ static_cast<unsigned char>(byte)) * 0x100000001b3u;
    }
  }
  void Add(std::uint64_t number) {
    char bytes[sizeof(number)];
    for (char& byte : bytes) {
      byte = static_cast<char>(number & 0xff);
      number >>= 8;
    }
    Add(std::string_view(bytes, sizeof(bytes)));
  }
  void Add(const Value& value) {
    Add(std::uint64_t{value.index()});
    if (const auto* number = std::get_if<std::int64_t>(&value)) {
      Add(static_cast<std::uint64_t>(*number));
    }
    if (const auto* text = std::get_if<std::string>(&value)) {
      Add(std::uint64_t{text->size()});
      Add(std::string_view(*text));
    }
  }
  std::int64_t value() const { return static_cast<std::int64_t>(state_); }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325u;
};

std::int64_t ChecksumOf(const Table& table, const Values& row) {
  Checksum checksum;
  checksum.Add(table.name);
  for (const Value& value : row) checksum.Add(value);
  return checksum.value();
}

std::string DescribeRow(const Table& table, const Values& row) {
  std::string text = fmt::format("table {}, row", table.name);
  for (std::size_t i = 0; i < table.key_width() && i < row.size(); ++i) {
    if (const auto* number = std::get_if<std::int64_t>(&row[i])) {
      text += fmt::format(" {}", *number);
    } else if (const auto* word = std::get_if<std::string>(&row[i])) {
      text += fmt::format(" '{}'", word->substr(0, 64));
    }
  }
  return text;
}

}  // namespace

std::string CreateStatement(const Table& table) {
  return fmt::format(
      "CREATE TABLE {} ({}, checksum INTEGER NOT NULL, PRIMARY KEY ({})) STRICT, WITHOUT ROWID",
      table.name, table.columns, table.key);
}

Status PutRow(Database& database, const Table& table, const Values& row) {
  CHECK(row.size() == table.width());
  std::string sql = fmt::format("INSERT OR REPLACE INTO {} VALUES (", table.name);
  for (std::size_t i = 0; i < row.size(); ++i) sql += "?, ";
  sql += "?)";
  ASSIGN_OR_RETURN(Query query, database.Prepare(sql));
  for (const Value& value : row) query.BindValue(value);
  query.Bind(ChecksumOf(table, row));
  return query.Run();
}

Status RemoveRow(Database& database, const Table& table, const Values& key) {
  CHECK(key.size() == table.key_width());
  std::string marks = "?";
  for (std::size_t i = 1; i < key.size(); ++i) marks += ", ?";
  ASSIGN_OR_RETURN(Query query, database.Prepare(fmt::format("DELETE FROM {} WHERE ({}) = ({})",
                                                             table.name, table.key, marks)));
  for (const Value& value : key) query.BindValue(value);
  return query.Run();
}

Status RemoveAllRows(Database& database, const Table& table) {
  return database.Execute(fmt::format("DELETE FROM {}", table.name));
}

Status ReadRows(Database& database, const Table& table,
                const std::function<Status(const Values&)>& take) {
  ASSIGN_OR_RETURN(Query query, database.Prepare(fmt::format("SELECT * FROM {} ORDER BY {}",
                                                             table.name, table.order)));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) return {};
    ASSIGN_OR_RETURN(const Values row, CheckedRow(database, table, query));
    RETURN_IF_ERROR(take(row));
  }
}

Result<Values> CheckedRow(const Database& database, const Table& table, const Query& query) {
  Values row = query.Row();
  const Value checksum = row.size() == table.width() + 1 ? row.back() : Value();
  row.resize(table.width());
  if (checksum != Value(ChecksumOf(table, row))) {
    return database.Damaged(DescribeRow(table, row));
  }
  return row;
}

}  // namespace sublet::store
