// store/node_store.h
//
// The node's state and journal, in one SQLite database that one daemon owns.
//
//   ASSIGN_OR_RETURN(NodeStore store, NodeStore::Open(state_directory));
//   ASSIGN_OR_RETURN(NodeRecord record, store.LoadAll());     // Once, at start.
//   ...
//   RETURN_IF_ERROR(store.Transaction([&]() -> Status {       // Both or neither.
//     ASSIGN_OR_RETURN(row.share.id, store.TakeShareId());
//     return store.PutShare(row);
//   }));
//
// It keeps <directory>/node.db (with node.db-wal while it is open) and node.lock. The directory is
// made with mode 0700 if need be, the files have 0600.
//
// A write that returns has survived the end of this process, however it ends. A power cut may take
// the last writes with it, the latest first, never half of one; Flush() waits until that can't
// happen any more. A write that fails has changed nothing.
//
// Errors of any call:
//   kIo          the disk is full, or doesn't write; a full one is worth a second try, as the first
//                has made what room it could in the space that the store keeps for itself
//   kPermission  the directory or its file system is read-only, or another user's
//   kInvalid     the database is damaged: see SetAside()
//
// What may surprise:
// - A Put replaces the row of the same key as a whole; a Remove of what isn't there does nothing.
// - The database is locked as long as the store is open: other programs, sqlite3(1) among them,
//   can't read it meanwhile. The lock goes with the process, however it ends.
// - A write takes some tens of microseconds. One in a thousand or so also moves the log into the
//   database, which takes as long as the disk takes to write. Flush() in a quiet moment has that
//   done beforehand.
// - Every row has a checksum. A byte that changed on the disk is an error, not another value.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "store/node_record.h"

namespace sublet {

struct NodeStoreOptions {
  bool create = true;  // Where nothing is there yet; false: fail with kNotFound.
};

class NodeStore {
 public:
  // Older events are dropped: a node that tells ten things a minute has the last 16 hours, in 3 MB.
  static constexpr std::int64_t kEventsMax = 10'000;

  // Fails with kConflict where another process has this directory open, whose number is in the
  // message, or where another version of Sublet wrote it, which this one can't read; with kInvalid
  // where it is damaged.
  static Result<NodeStore> Open(const std::string& directory, NodeStoreOptions options = {});

  // Makes room for a new database: renames what is there to node.db.damaged-1, or the next free
  // number, and returns that file's path. Fails with kNotFound where nothing is there, with
  // kConflict where a process has the directory open.
  static Result<std::string> SetAside(const std::string& directory);

  NodeStore(NodeStore&& other) noexcept;
  NodeStore& operator=(NodeStore&& other) noexcept;
  ~NodeStore();

  // Reads and checks every row, the events too. Fails with kInvalid where one is damaged.
  Result<NodeRecord> LoadAll();

  // Runs `change`, whose writes take effect all together when it returns success, and not at all
  // where it, or one of them, fails. While it runs, it sees its own writes. Within another
  // Transaction() it is a part of that one.
  Status Transaction(const std::function<Status()>& change);
  // Returns once everything written so far would survive a power cut. Milliseconds.
  Status Flush();

  Status SetBootId(std::string_view boot_id);
  Status SetNodeName(std::string_view node_name);

  // "s1", "s2", ...: never one that was taken before.
  Result<std::string> TakeShareId();
  // From now on TakeShareId() gives only ids with greater numbers. For a new database on a node
  // where shares of the old one may still run.
  Status SkipShareIds(std::int64_t up_to);

  Status PutShare(const ShareRow& row);
  Status RemoveShare(std::string_view id);

  Status PutDomain(const DomainRow& row);
  Status RemoveDomain(std::string_view name);

  Status PutMigInstance(const MigInstanceRow& row);
  Status RemoveMigInstance(std::string_view gpu_uuid, int start);

  Status PutMigStep(const MigStepRow& row);
  Status ClearMigSteps();

  Status PutPlan(const PlanRow& row);
  Status RemovePlan();

  // There is at most one: fails with kConflict while one of another id is there.
  Status PutOperation(const OperationRow& row);
  Status RemoveOperation();

  Status PutReplica(const ReplicaRow& row);
  Status RemoveReplica(std::string_view id);

  // Returns the sequence that the event got, the last one's plus 1; event.sequence isn't read.
  Result<std::int64_t> AppendEvent(const NodeEvent& event);
  // The oldest `count_max` events after that sequence, in their order; 0: from the first that is
  // kept.
  Result<std::vector<NodeEvent>> EventsAfter(std::int64_t sequence, std::size_t count_max);

 private:
  class Tables;
  explicit NodeStore(std::unique_ptr<Tables> tables);

  std::unique_ptr<Tables> tables_;
};

}  // namespace sublet
