// proxy/access_log.h
//
// A line of JSON for each request, with what was decided and how it went; never a prompt, an
// answer's text or a key. docs/operating/routing.md lists the fields.
//
//   ASSIGN_OR_RETURN(auto log, AccessLog::Open({.path = "/var/log/sublet/route.jsonl"}));
//   hooks.on_finished = [&](const AccessRecord& record) { log->Write(record, UtcMilliseconds()); };
//   log->Reopen("/var/log/sublet/route.jsonl");   // After logrotate has moved the file: on SIGHUP.
//
// Write() formats the line and hands it over; a thread writes it. A disk that is slow or full costs
// lines, which are counted, and never a request's time.
//
// Thread safety: all calls, from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "proxy/access_record.h"

namespace sublet {

// One line, with its end. `simulated`: its replica is an engine without a model.
std::string AccessLine(const AccessRecord& record, std::string_view time, bool simulated);

struct AccessLogOptions {
  std::string path;              // "-": standard output.
  std::size_t lines_max = 8192;  // That wait for the disk: about 6 MiB.
};

class AccessLog {
 public:
  // Fails with kNotFound, kPermission or kIo where the file can't be opened for appending.
  static Result<std::unique_ptr<AccessLog>> Open(const AccessLogOptions& options);
  // Writes what waits.
  ~AccessLog();
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;

  void Write(const AccessRecord& record, std::string_view time, bool simulated);
  // From now on into that file. Where it can't be opened, the old one stays.
  Status Reopen(const std::string& path);
  // Returns when every line that was written before has gone to the file.
  void Flush();

  std::int64_t dropped() const;  // Lines that found no room, or that the disk refused.

 private:
  class Impl;
  explicit AccessLog(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sublet
