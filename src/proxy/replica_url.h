// proxy/replica_url.h
//
// A replica's URL, taken apart once.
//
//   ASSIGN_OR_RETURN(const ReplicaUrl url, ParseReplicaUrl("https://engine-3.svc:8443/v2/"));
//   url.host        // "engine-3.svc"
//   url.authority   // "engine-3.svc:8443", as Host has it
//   url.prefix      // "/v2": in front of each path
//
// Thread safety: values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sublet::internal {

struct ReplicaUrl {
  bool tls = false;
  std::string host;  // Without brackets.
  std::uint16_t port = 0;
  std::string authority;
  std::string prefix;  // Without a slash at its end; often empty.
};

// Fails with kInvalid for what isn't http or https, for user names, queries and fragments.
Result<ReplicaUrl> ParseReplicaUrl(std::string_view text);

}  // namespace sublet::internal
