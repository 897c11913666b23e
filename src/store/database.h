// store/database.h
//
// One SQLite database, and the queries on it: the only header that knows SQLite.
//
//   ASSIGN_OR_RETURN(Database db, Database::Open(path));
//   ASSIGN_OR_RETURN(Query query, db.Prepare("SELECT name FROM domain WHERE tenant = ?"));
//   query.Bind(tenant);
//   while (true) {
//     ASSIGN_OR_RETURN(const bool row, query.Step());
//     if (!row) break;
//     names.push_back(query.Text(0));
//   }
//
// A query is compiled once and kept for the next time, so its text should be one of a few.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

struct sqlite3;
struct sqlite3_stmt;

namespace sublet::store {

// What a column holds: nothing, a number or a text.
using Value = std::variant<std::monostate, std::int64_t, std::string>;
using Values = std::vector<Value>;

class Database;

// A query at work; its end makes the compiled statement ready for the next use. There is one at a
// time of each text.
class Query {
 public:
  Query(Query&& other) noexcept;
  Query& operator=(Query&&) = delete;
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;
  ~Query();

  // Gives the next '?' its value. A text must live until the query's end.
  Query& Bind(std::int64_t value);
  Query& Bind(std::string_view value);
  Query& BindValue(const Value& value);

  // True: there is a row, whose columns can be read. False: it is done.
  Result<bool> Step();
  // For what gives no rows. On a full disk it tries a second time, after making room.
  Status Run();

  std::int64_t Integer(int column) const;
  std::string Text(int column) const;
  Values Row() const;

 private:
  friend class Database;
  Query(Database& database, sqlite3_stmt* statement)
      : database_(&database), statement_(statement) {}

  Database* database_;
  sqlite3_stmt* statement_;  // Null after a move.
  int bound_ = 0;
};

class Database {
 public:
  // The file must exist. Other programs can't use it as long as it is open. Until StartLog() every
  // change is on the disk when it returns. Fails as NodeStore's calls do.
  static Result<Database> Open(const std::string& path);

  Database(Database&&) noexcept = default;
  Database& operator=(Database&&) = delete;
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // From here on changes go to a write-ahead log, and nobody waits for the disk.
  Status StartLog();

  // The first call compiles the text, which may fail where the schema isn't ours.
  Result<Query> Prepare(std::string_view sql);
  // One statement without values.
  Status Execute(std::string_view sql);
  // The first column of the first row of a query without values; absent without a row.
  Result<std::optional<Value>> First(std::string_view sql);

  // See NodeStore::Transaction(). On a full disk it fails, and makes room for the next.
  Status Atomically(const std::function<Status()>& change);
  Status Flush();

  // Fails with kInvalid where the file's structure is damaged.
  Status QuickCheck();
  // What is said where the content is found damaged; `where` as "row s17 of share".
  tl::unexpected<Error> Damaged(std::string_view where) const;

 private:
  friend class Query;
  struct Closer {
    void operator()(sqlite3* db) const;
    void operator()(sqlite3_stmt* statement) const;
  };
  using Statement = std::unique_ptr<sqlite3_stmt, Closer>;

  Database(std::string path, std::unique_ptr<sqlite3, Closer> db)
      : path_(std::move(path)), db_(std::move(db)) {}
  Result<Statement> Compile(std::string_view sql) const;
  // The error for what SQLite has just answered: the one place where its codes become ours.
  Error Explain(int code) const;
  // Empties the log into the database, so that it begins anew in the space that it has.
  void MakeRoom();
  // Within a transaction, `error` is the end of it.
  Error Doom(Error error);

  std::string path_;
  std::unique_ptr<sqlite3, Closer> db_;
  std::map<std::string, Statement, std::less<>> statements_;  // After db_: they go first.
  bool in_transaction_ = false;
  bool wants_room_ = false;    // A write failed, and nobody has made room since.
  std::optional<Error> doom_;  // Of the transaction: nothing more of it is carried out.
};

}  // namespace sublet::store
