// store/state_directory.h
//
// The folder in which a node's state lies: closed to other users, and one process's at a time.
//
//   ASSIGN_OR_RETURN(const StateDirectory folder, StateDirectory::Enter(path, true));
//   folder.database()      // "/var/lib/sublet/node.db"
//
// Whoever is in it holds a lock on its file node.lock, which the kernel takes back when the process
// ends, however it ends. The file has the process's number for others to name, and stays.
//
// Thread safety: different threads and processes may Enter() at the same time; one succeeds.
#pragma once

#include <cstdint>
#include <string>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace sublet::store {

class StateDirectory {
 public:
  // With `create`, a folder that is missing is made, with those above it, each for its user alone.
  // Fails with kConflict where another process is in it; kPermission where it is another user's, or
  // open to others and has other things in it than ours: closing such a folder could break them.
  static Result<StateDirectory> Enter(const std::string& directory, bool create);

  std::string database() const { return path_ + "/node.db"; }

  // Where a new database is made. It gets its name when it is whole, so that node.db is never the
  // half of one.
  std::string draft() const { return database() + ".new"; }
  // Makes an empty file in place of what is left of a process that was killed meanwhile.
  Status BeginDraft() const;
  Status PublishDraft() const;
  // Whether the database is there. Fails with kInvalid where only a part of it is.
  Result<bool> HasDatabase() const;
  // See NodeStore::SetAside().
  Result<std::string> SetAside() const;

 private:
  StateDirectory(std::string path, FileDescriptor folder, FileDescriptor lock)
      : path_(std::move(path)), folder_(std::move(folder)), lock_(std::move(lock)) {}
  Status Sync() const;

  std::string path_;  // Absolute.
  FileDescriptor folder_;
  FileDescriptor lock_;
};

// Keeps so many bytes of the disk for a file to grow into, whoever fills the rest. Does nothing
// where the file system can't, or is full already.
void ReserveSpace(const std::string& path, std::int64_t bytes);

// The next free name for a database that is set aside: "/var/lib/sublet/node.db.damaged-1".
std::string NextDamagedName(const std::string& database);

// What to do about a database that can't be read.
std::string RebuildHint(const std::string& database);

}  // namespace sublet::store
