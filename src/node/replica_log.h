// node/replica_log.h
//
// What a replica prints: one file that never grows for long, and the two before it.
//
//   ReplicaLog log("/var/lib/sublet/logs", "s17");       // .../s17.log, s17.log.1, s17.log.2
//   Launch({.argv = command, .log_path = log.path()});
//   log.RotateIfLarge();                                 // Now and then, on a worker.
//
//   LogText text = log.Tail(100).value();                // The last 100 lines...
//   while (true) {                                       // ...and what comes after them.
//     Print(text.text);
//     text = log.ReadFrom(text.next).value();            // Empty: nothing new yet.
//   }
//
// The replica writes into the file by itself, by a descriptor that was opened for appending, and
// goes on when this program ends. So a full file is copied, and what was copied is taken off its
// beginning. Ext4 and XFS do that while the replica writes, and nothing is lost. On other
// filesystems the file is cut to nothing; what is printed between the end of the copy and the cut
// is lost: microseconds as a rule, milliseconds for a program that does nothing but print.
//
// What may surprise:
// - Between two calls of RotateIfLarge() a file has no limit. Of one that has become more than
//   kLogOvergrown times as large as it may be, only the end is copied, and it is cut even where it
//   can't be copied, so that a full disk doesn't stay full.
// - Where this program is killed between copy and cut, what was copied stands there twice.
// - A file is cut where the copy ends, which may be within a line.
// - Who follows loses nothing by one rotation between two reads; by two, what was between.
//
// Thread safety: call from any thread; one ReplicaLog a file, because it counts the rotations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace sublet {

// A model server's start prints some 50 KiB: a file of this size has what led to a fault.
inline constexpr std::uint64_t kReplicaLogBytesMax = 8u << 20;
inline constexpr std::uint64_t kLogOvergrown = 8;  // Times as much.
inline constexpr int kOldLogs = 2;

// Where somebody has read to.
struct LogPosition {
  std::uint64_t offset = 0;
  std::uint64_t rotations = 0;  // Of the file, since its ReplicaLog was made.
};

struct LogText {
  std::string text;
  LogPosition next;
};

class ReplicaLog {
 public:
  // The folder must exist by the time the log is written to.
  ReplicaLog(const std::string& folder, const std::string& share);
  // `bytes_max` for tests: of each file.
  ReplicaLog(const std::string& folder, const std::string& share, std::uint64_t bytes_max);

  const std::string& path() const { return path_; }

  // True where it was full and has been cut. The copy belongs to whom the file belongs to, with its
  // mode. Fails with kIo or kPermission; then nothing is lost but the oldest file.
  Result<bool> RotateIfLarge();

  // The last lines, at most 1 MiB of them, from the file before this one too where this one has too
  // few. A line that isn't complete yet counts as one. Empty where there is no log yet.
  Result<LogText> Tail(std::size_t lines) const;
  // What was printed since, at most 256 KiB at once. Empty where nothing was.
  Result<LogText> ReadFrom(LogPosition position) const;

  // Removes all files.
  void Remove();

 private:
  std::string OldPath(int age) const;
  Result<FileDescriptor> KeepCopy(int live, std::uint64_t begin, std::uint64_t end);

  const std::string path_;
  const std::uint64_t bytes_max_;
  mutable std::mutex mutex_;
  std::uint64_t rotations_ = 0;  // Guarded by mutex_, as the files are against each other.
};

}  // namespace sublet
