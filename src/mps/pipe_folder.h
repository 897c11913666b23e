// mps/pipe_folder.h
//
// The folder in which a control daemon has its sockets, and below it the one for its logs.
//
//   ASSIGN_OR_RETURN(PipeFolder folder, PipeFolder::MakePrivate("/tmp"));
//   folder.path()             // CUDA_MPS_PIPE_DIRECTORY: "/tmp/sublet-mps-Xb3aQ9"
//   folder.log_directory()    // CUDA_MPS_LOG_DIRECTORY: ".../logs"
//
// A private one is new, and goes with its owner (mps/private_folder.h). One with a name of its own
// (MakeNamed, then OpenNamed in a later life of its owner) stays until it is removed.
//
// Both are closed to everybody but the user whose it is, unless its sockets are to be reached by
// others: then those may enter, but neither see what is in it nor read the logs. Its user may put
// into it what they like: what is read from it here is neither a link nor another user's file.
//
// Thread safety: one thread at a time.
#pragma once

#include <fcntl.h>
#include <sys/types.h>

#include <optional>
#include <string>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "base/user.h"
#include "mps/private_folder.h"

namespace sublet {

// Who may come to the sockets in it.
enum class PipeFolderUsers { kOwner, kAll };

class PipeFolder {
 public:
  static Result<PipeFolder> MakePrivate(const std::string& parent);
  // Fails with kConflict where there is something of that name, with kUsage where the path is too
  // long for the names of sockets in it or isn't absolute. `owner`: absent, this process's user.
  static Result<PipeFolder> MakeNamed(const std::string& path, const std::optional<UserIds>& owner,
                                      PipeFolderUsers users = PipeFolderUsers::kOwner);
  // Fails with kNotFound where it isn't there, with kPermission where it isn't that owner's, or is
  // open to more than `users`.
  static Result<PipeFolder> OpenNamed(const std::string& path, const std::optional<UserIds>& owner,
                                      PipeFolderUsers users = PipeFolderUsers::kOwner);

  // What an earlier life left at `path`, in whatever state; nothing where nothing is there. Fails
  // with kPermission where it is no folder, or belongs neither to `owner` nor to this process.
  static Result<std::optional<PipeFolder>> FindLeft(const std::string& path,
                                                    const std::optional<UserIds>& owner);

  const std::string& path() const { return path_; }
  std::string log_directory() const { return path_ + "/logs"; }
  // Where the daemon's standard output and error go. In the foreground it makes no log of its own
  // (observed: driver 580), but prints what would be in it, its servers' part, too.
  std::string log_path() const { return log_directory() + "/control.log"; }
  const FileDescriptor& output() const { return output_; }
  // The last line of it; empty where there is none.
  std::string LastWords() const;

  // With all that is in it. Does nothing the second time.
  Status Remove();

 private:
  PipeFolder(std::string path, uid_t owner) : path_(std::move(path)), owner_(owner) {}
  Status MakeLogs(const std::optional<UserIds>& owner);

  std::string path_;
  uid_t owner_;
  std::optional<PrivateFolder> private_;
  FileDescriptor output_;
};

// Opens a file that a user may have put there: absent where it is a link, no regular file, or
// another user's.
std::optional<FileDescriptor> OpenFileOf(uid_t owner, const std::string& path,
                                         int access = O_RDONLY);

}  // namespace sublet
