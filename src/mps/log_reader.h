// mps/log_reader.h
//
// What MPS says by itself: who came, who went, that something broke. Reading the log costs a
// read(); asking costs a process, and tells only how things stand.
//
//   LogTail log(mps->log_path(), owner, LogTail::From::kEnd);
//   ... inotify says that somebody wrote in mps->log_directory() ...
//   for (const MpsEvent& event : log.Read()) {
//     if (event.kind == MpsEventKind::kClientLost) ...  // End it: until all of those have ended,
//   }                                                   // the server takes nobody.
//
// What may surprise:
// - The lines are for people, and their wording isn't documented; these are those of driver 580.
//   What isn't recognised is kOther: nothing may depend on a line alone.
// - Who caused a fault can't be told. The line that names a client names the first on the device,
//   innocent or not, and so does the kernel's Xid line. Only where one client alone was lost, it
//   was the one. A client that was killed within a kernel causes a fault, too.
// - A log belongs to whoever the daemon runs as, who may write anything into it: a line may be used
//   against processes of that user, no others.
//
// Thread safety: ParseMpsLine is pure; one thread at a time for each LogTail.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sublet {

enum class MpsEventKind {
  kClientConnected,   // At its cuInit.
  kClientRefused,     // 48 are there, or the server has a fault.
  kClientExited,      // Of its own, killed or terminated: it is gone.
  kClientTerminated,  // By terminate_client; its process is still there.
  kClientLost,        // A fault has taken its context; its process is still there.
  kFault,             // A GPU fault: every client of the server on that GPU is lost.
  kServerStarted,
  kServerExited,  // Cleanly, or killed: it reads the same.
  kOther,
};

struct MpsEvent {
  MpsEventKind kind = MpsEventKind::kOther;
  int pid = 0;       // Of the client or server that it is about; 0 where the line doesn't say.
  int writer = 0;    // The process that wrote the line: a server, or the control daemon.
  std::string text;  // What stands behind the line's time and origin.
};

// One line, without its end.
MpsEvent ParseMpsLine(std::string_view line);

inline constexpr std::size_t kLogBytesMax = 1u << 20;
inline constexpr std::size_t kLogBytesKept = 256u << 10;  // For people to read.

// What was appended to a log since it was last read.
class LogTail {
 public:
  enum class From { kBegin, kEnd };

  // `owner`: another user's file is not read. Neither is a link, or what is no file. kEnd: what is
  // there now is skipped.
  LogTail(std::string path, uid_t owner, From from);

  // The events of all whole lines that are new, without kOther; none where there is no file. A file
  // that was replaced, or has become shorter, is read from its beginning. Of more than
  // kLogBytesMax, which no hour of work writes, only the last are looked at.
  //
  // What was read long ago is given back to the file system, because a daemon that lives for months
  // logs each question that it is asked: the file's size goes on growing, its room doesn't.
  std::vector<MpsEvent> Read();

 private:
  void GiveBackRoom(std::int64_t room_bytes) const;

  std::string path_;
  uid_t owner_;
  std::uint64_t inode_ = 0;
  std::uint64_t offset_ = 0;
  std::string rest_;  // A line whose end wasn't there yet.
};

}  // namespace sublet
