// model/http_url.h
//
// Where a replica listens, in its parts.
//
//   ASSIGN_OR_RETURN(const HttpUrl url, ParseHttpUrl("https://10.0.0.7:8443/llm/"));
//   url.host    // "10.0.0.7"
//   url.path    // "/llm": what stands in front of /v1/chat/completions
//   url.Text()  // "https://10.0.0.7:8443/llm"
//
// Two texts for one place give the same Text(): the scheme's port filled in, the host in lower
// case, no slash at the end.
//
// Thread safety: pure.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace sublet {

struct HttpUrl {
  bool tls = false;
  std::string host;  // A name or an address; of IPv6 without brackets.
  int port = 0;
  std::string path;  // Begins with a slash and doesn't end with one; empty: the root.

  std::string Text() const;
  // "10.0.0.7:8443", "[::1]:8000": what a Host header says.
  std::string Authority() const;
  friend bool operator==(const HttpUrl&, const HttpUrl&) = default;
};

// Fails with kInvalid: another scheme than http and https, a user or password, a query, a fragment,
// a port that is none, characters that no URL has.
Result<HttpUrl> ParseHttpUrl(std::string_view text);

}  // namespace sublet
