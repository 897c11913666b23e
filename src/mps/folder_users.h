// mps/folder_users.h
//
// The processes that belong to a pipe directory: those that have it in their environment as
// CUDA_MPS_PIPE_DIRECTORY. They are the control daemon, the servers that it started, and their
// clients; when the directory is a private one, nobody else's.
//
// Thread safety: no shared state.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace sublet {

// Without this process. One whose environment may not be read is not among them.
std::vector<pid_t> FolderUsers(const std::string& pipe_directory);

// Waits until there are none, for at most `grace_s`; kills those that are left, and waits for their
// end. False where some didn't end: a process in the driver's hands may take long, or forever.
bool EndFolderUsers(const std::string& pipe_directory, double grace_s);

}  // namespace sublet
