// mps/private_folder.h
//
// A folder below another, for a daemon's sockets: new, closed to other users, and gone when its
// owner goes.
//
//   ASSIGN_OR_RETURN(PrivateFolder folder, PrivateFolder::Make("/tmp", "sublet-mps-"));
//   folder.path()   // "/tmp/sublet-mps-Xb3aQ9"
//
// The owner holds a lock on it, which the kernel takes back when the process ends, however it ends.
// So folders of that prefix that nobody has locked were left by a process that was killed; Make()
// first removes those of this user. (A file with the owner's process number would mislead where
// two containers share the parent folder: neither sees the other's processes.)
//
// Thread safety: different processes and threads may Make() at the same time.
#pragma once

#include <string>
#include <string_view>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace sublet {

class PrivateFolder {
 public:
  // Fails as FailFromErrno() does where the parent is missing or not writable.
  static Result<PrivateFolder> Make(const std::string& parent, std::string_view prefix);

  PrivateFolder(PrivateFolder&& other) noexcept;
  PrivateFolder& operator=(PrivateFolder&&) = delete;
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;
  ~PrivateFolder() { Remove(); }

  const std::string& path() const { return path_; }
  // With all that is in it; does nothing the second time.
  void Remove();

 private:
  PrivateFolder(std::string path, FileDescriptor lock)
      : path_(std::move(path)), lock_(std::move(lock)) {}

  std::string path_;  // Empty once removed.
  FileDescriptor lock_;
};

}  // namespace sublet
