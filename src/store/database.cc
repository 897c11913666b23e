#include "store/database.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/files.h"
#include "store/state_directory.h"

namespace sublet::store {
namespace {

// Somebody may look at the database with sqlite3(1) while the daemon starts.
constexpr int kOthersMilliseconds = 2000;

// What is kept of the disk, so that ends can be written when others have filled it. In the
// database: 500 shares and all the events that are kept; it grows by so much at a time. In the log:
// some fifty transactions; when they are used up, MakeRoom() lets it begin anew.
constexpr int kReservedBytes = 4 << 20;
constexpr std::int64_t kReservedLogBytes = 1 << 20;

bool IsFullDisk(int error_number) {
  return error_number == ENOSPC || error_number == EDQUOT || error_number == EFBIG;
}

bool IsForbidden(int error_number) {
  return error_number == EROFS || error_number == EACCES || error_number == EPERM;
}

}  // namespace

Query::Query(Query&& other) noexcept
    : database_(other.database_),
      statement_(std::exchange(other.statement_, nullptr)),
      bound_(other.bound_) {}

Query::~Query() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);  // Repeats the error that Step() has returned.
  sqlite3_clear_bindings(statement_);
}

Query& Query::Bind(std::int64_t value) {
  CHECK(sqlite3_bind_int64(statement_, ++bound_, value) == SQLITE_OK);
  return *this;
}

Query& Query::Bind(std::string_view value) {
  // A null pointer would bind NULL, which isn't the empty text.
  const char* const text = value.data() == nullptr ? "" : value.data();
  CHECK(sqlite3_bind_text64(statement_, ++bound_, text, value.size(), SQLITE_STATIC, SQLITE_UTF8) ==
        SQLITE_OK);
  return *this;
}

Query& Query::BindValue(const Value& value) {
  if (const auto* number = std::get_if<std::int64_t>(&value)) return Bind(*number);
  if (const auto* text = std::get_if<std::string>(&value)) return Bind(std::string_view(*text));
  CHECK(sqlite3_bind_null(statement_, ++bound_) == SQLITE_OK);
  return *this;
}

Result<bool> Query::Step() {
  if (database_->doom_) return tl::unexpected<Error>(*database_->doom_);
  errno = 0;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  Error error = database_->Explain(code);
  database_->wants_room_ = database_->wants_room_ || error.code == ErrorCode::kIo;
  return tl::unexpected<Error>(database_->Doom(std::move(error)));
}

Status Query::Run() {
  Result<bool> row = Step();
  if (!row && database_->wants_room_ && !database_->in_transaction_) {
    sqlite3_reset(statement_);  // What is under way would keep the log from beginning anew.
    database_->MakeRoom();
    row = Step();
  }
  if (!row) return tl::unexpected<Error>(std::move(row).error());
  CHECK(!*row);
  return {};
}

std::int64_t Query::Integer(int column) const {
  return sqlite3_column_int64(statement_, column);
}

std::string Query::Text(int column) const {
  const unsigned char* const text = sqlite3_column_text(statement_, column);
  if (text == nullptr) return {};
  return {reinterpret_cast<const char*>(text),
          static_cast<std::size_t>(sqlite3_column_bytes(statement_, column))};
}

Values Query::Row() const {
  Values row(static_cast<std::size_t>(sqlite3_column_count(statement_)));
  for (std::size_t i = 0; i < row.size(); ++i) {
    const int column = static_cast<int>(i);
    const int type = sqlite3_column_type(statement_, column);
    if (type == SQLITE_INTEGER) row[i] = Integer(column);
    if (type == SQLITE_TEXT) row[i] = Text(column);
  }
  return row;
}

void Database::Closer::operator()(sqlite3* db) const {
  sqlite3_close(db);
}

void Database::Closer::operator()(sqlite3_stmt* statement) const {
  sqlite3_finalize(statement);
}

Result<Database> Database::Open(const std::string& path) {
  errno = 0;
  sqlite3* raw = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &raw,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, nullptr);
  Database database(path, std::unique_ptr<sqlite3, Closer>(raw));
  if (code != SQLITE_OK) return tl::unexpected<Error>(database.Explain(code));
  sqlite3_busy_timeout(raw, kOthersMilliseconds);
  sqlite3_db_config(raw, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  int chunk = kReservedBytes;
  sqlite3_file_control(raw, "main", SQLITE_FCNTL_CHUNK_SIZE, &chunk);
  // The lock keeps the log's index in this process's memory. In a shared file, which would be
  // mapped, a disk that is full or broken would end the process with SIGBUS.
  for (const char* pragma : {"PRAGMA locking_mode = EXCLUSIVE", "PRAGMA synchronous = FULL",
                             "PRAGMA cell_size_check = ON", "PRAGMA trusted_schema = OFF",
                             "PRAGMA mmap_size = 0", "PRAGMA temp_store = MEMORY"}) {
    RETURN_IF_ERROR(database.First(pragma));
  }
  return database;
}

Status Database::StartLog() {
  ASSIGN_OR_RETURN(const std::optional<Value> mode, First("PRAGMA journal_mode = WAL"));
  if (mode != Value("wal")) {
    return Fail(ErrorCode::kIo, fmt::format("no write-ahead log can be made beside {}", path_));
  }
  RETURN_IF_ERROR(Execute("PRAGMA synchronous = NORMAL"));
  // 16 MB: a quarter of the waits for the disk that there would be by default.
  RETURN_IF_ERROR(First("PRAGMA wal_autocheckpoint = 4000"));
  ReserveSpace(path_ + "-wal", kReservedLogBytes);
  return {};
}

Result<Database::Statement> Database::Compile(std::string_view sql) const {
  errno = 0;
  sqlite3_stmt* raw = nullptr;
  const int code = sqlite3_prepare_v3(db_.get(), sql.data(), static_cast<int>(sql.size()),
                                      SQLITE_PREPARE_PERSISTENT, &raw, nullptr);
  if (code != SQLITE_OK) return tl::unexpected<Error>(Explain(code));
  return Statement(raw);
}

Result<Query> Database::Prepare(std::string_view sql) {
  auto known = statements_.find(sql);
  if (known == statements_.end()) {
    auto compiled = Compile(sql);
    if (!compiled) return tl::unexpected<Error>(Doom(std::move(compiled).error()));
    known = statements_.emplace(std::string(sql), std::move(*compiled)).first;
  }
  CHECK(!sqlite3_stmt_busy(known->second.get()));
  return Query(*this, known->second.get());
}

Status Database::Execute(std::string_view sql) {
  ASSIGN_OR_RETURN(Query query, Prepare(sql));
  return query.Run();
}

Result<std::optional<Value>> Database::First(std::string_view sql) {
  ASSIGN_OR_RETURN(Query query, Prepare(sql));
  ASSIGN_OR_RETURN(const bool row, query.Step());
  if (!row) return std::optional<Value>();
  return std::optional<Value>(query.Row().at(0));
}

Status Database::Atomically(const std::function<Status()>& change) {
  if (in_transaction_) {
    Status status = change();
    // What it wrote before it failed can't be told from what was written before it began.
    if (!status) Doom(status.error());
    return status;
  }
  RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
  // Also where `change` throws.
  struct End {
    Database& database;
    ~End() {
      database.in_transaction_ = false;
      database.doom_.reset();
      // After some errors SQLite has rolled back on its own.
      if (sqlite3_get_autocommit(database.db_.get()) == 0) {
        sqlite3_exec(database.db_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
      }
      if (database.wants_room_) database.MakeRoom();
    }
  };
  const End end{*this};
  in_transaction_ = true;
  Status status = change();
  if (!status) return status;
  return Execute("COMMIT");  // Fails where a write has failed.
}

Status Database::Flush() {
  CHECK(!in_transaction_);
  errno = 0;
  const int code =
      sqlite3_wal_checkpoint_v2(db_.get(), nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  if (code != SQLITE_OK) return tl::unexpected<Error>(Explain(code));
  return {};
}

void Database::MakeRoom() {
  // Where the database can't grow either, this fails, and the log stays as it is.
  sqlite3_wal_checkpoint_v2(db_.get(), nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  wants_room_ = false;
}

Status Database::QuickCheck() {
  ASSIGN_OR_RETURN(const std::optional<Value> finding, First("PRAGMA quick_check(1)"));
  if (finding == Value("ok")) return {};
  const auto* text = finding ? std::get_if<std::string>(&*finding) : nullptr;
  return Damaged(text == nullptr ? "no answer to a check" : *text);
}

tl::unexpected<Error> Database::Damaged(std::string_view where) const {
  return Fail(ErrorCode::kInvalid, fmt::format("the database is damaged ({}): {}", where, path_),
              RebuildHint(path_));
}

Error Database::Doom(Error error) {
  if (in_transaction_ && !doom_) doom_ = error;
  return error;
}

Error Database::Explain(int code) const {
  // SQLite keeps an errno only of some calls. Where it fails for the system, the last call that
  // failed was the one.
  const int error_number = errno;
  const int primary = code & 0xff;
  const bool system = primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN;
  if (primary == SQLITE_FULL || (system && IsFullDisk(error_number))) {
    return {ErrorCode::kIo, fmt::format("the disk is full, and nothing was changed: {}", path_),
            "make room on that file system and try again; what runs goes on running"};
  }
  if (primary == SQLITE_READONLY || primary == SQLITE_PERM ||
      (system && IsForbidden(error_number))) {
    return {ErrorCode::kPermission, fmt::format("this can't be written: {}", path_),
            "its folder and file system must be writable for the user who runs the daemon"};
  }
  switch (primary) {
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
      if (error_number != 0) return FailFromErrno(error_number, path_).value();
      return {ErrorCode::kIo, fmt::format("{}: {}", sqlite3_errmsg(db_.get()), path_), {}};
    // Our statements are right: what makes one wrong is a schema that has changed on the disk.
    case SQLITE_ERROR:
    case SQLITE_SCHEMA:
    case SQLITE_TOOBIG:
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return Damaged(sqlite3_errmsg(db_.get())).value();
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
      return {ErrorCode::kConflict, fmt::format("another program has this open: {}", path_),
              "end that program first"};
    case SQLITE_NOMEM:
      return {ErrorCode::kUnavailable, fmt::format("no memory is left to work on {}", path_), {}};
    default:
      return {ErrorCode::kInternal,
              fmt::format("{} (SQLite's code {}): {}", sqlite3_errmsg(db_.get()), code, path_),
              {}};
  }
}

}  // namespace sublet::store
