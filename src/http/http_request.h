// http/http_request.h
//
// A request as it came over the wire, as the value that a handler gets.
//
//   ASSIGN_OR_RETURN(const RequestTarget target, ParseTarget("/v1/logs/chat%2F0?follow=1"));
//   target.path                    // "/v1/logs/chat/0"
//   target.query.at("follow")      // "1"
//   if (!BearerIs(request_header, token)) ...
//
// Thread safety: values; nothing is shared.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sublet::internal {

struct RequestTarget {
  std::string path;
  std::map<std::string, std::string> query;
};

// Fails with kInvalid for what isn't a path with an optional query, for a path with "." or ".." as
// a segment, and for a NUL byte in either, encoded or not: none of these is in the API, and each
// has been used to confuse a server.
Result<RequestTarget> ParseTarget(std::string_view target);

// Whether the value of an Authorization header is "Bearer TOKEN". It takes as long for a token that
// is nearly right as for one that is all wrong.
bool BearerIs(std::string_view authorization, std::string_view token);

}  // namespace sublet::internal
