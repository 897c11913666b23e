// base/files.h
//
// Whole files in and out.
//
// Reading has a limit, because what is read is parsed in memory. Writing goes to a file beside the
// target which is then renamed over it: a reader sees the old content or the new, never a half, and
// a crash leaves the old one.
//
// Thread safety: no shared state; two writers of one path each write a whole file, the last wins.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sublet {

// Returns the content of a regular file, or of standard input when `path` is "-". Fails with
// kNotFound, kPermission, kIo, or kInvalid when it has more than `bytes_max` bytes.
Result<std::string> ReadFile(const std::string& path, std::size_t bytes_max);

// Replaces or creates the file with mode `mode`; a link is followed. The folder must exist. "-" is
// standard output, and a device or pipe is written to, not replaced. Fails with kNotFound,
// kPermission or kIo; then a file is as it was.
Status WriteFileAtomically(const std::string& path, std::string_view content, unsigned mode = 0644);

// The path of the program that runs; empty where /proc isn't there. What is installed beside it is
// found by this. To start it once more, use /proc/self/exe where nothing lies here: a program that
// was replaced while it runs, as by an update, has " (deleted)" behind its path.
std::string OwnProgramPath();

// The error for the current errno, with `what` in front: the one place where errno becomes an
// Error.
[[nodiscard]] tl::unexpected<Error> FailFromErrno(int error_number, std::string_view what);

}  // namespace sublet
