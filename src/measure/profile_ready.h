// measure/profile_ready.h
//
// Whether a server is ready for its load.
//
//   ASSIGN_OR_RETURN(const ReadyCheck ready, ReadyCheck::Parse("http://localhost:8000/health"));
//   while (!ready.Passes()) ...
//
// Three kinds: an http:// address that answers with a status below 400, tcp:HOST:PORT that accepts
// a connection, and anything else, a shell command that succeeds.
//
// Thread safety: no shared state.
#pragma once

#include <string>

#include "base/result.h"

namespace sublet {

class ReadyCheck {
 public:
  // Fails with kUsage: an empty text, https://, no port or one that is none.
  static Result<ReadyCheck> Parse(const std::string& text);

  // Looks once; takes at most a few seconds.
  bool Passes() const;

 private:
  enum class Kind { kHttp, kTcp, kCommand };
  Kind kind_ = Kind::kCommand;
  std::string host_;
  std::string port_;
  std::string path_;
  std::string command_;
};

}  // namespace sublet
