// proxy/api_key_ring.h
//
// The API keys that are let in.
//
//   const ApiKey* key = ring.Find(header_value);   // "Bearer sk-...", or null.
//
// Only hashes are kept. A look-up hashes what was sent and compares hashes, the last step in a time
// that doesn't depend on where they differ; how the hash of a guess compares with that of a key
// tells nothing about the key.
//
// Thread safety: once made, any thread.
#pragma once

#include <string_view>
#include <vector>

#include "proxy/proxy_options.h"

namespace sublet::internal {

class ApiKeyRing {
 public:
  explicit ApiKeyRing(std::vector<ApiKey> keys);

  bool empty() const { return keys_.empty(); }
  // `authorization`: the header's value. Null where it isn't a bearer token of ours.
  const ApiKey* Find(std::string_view authorization) const;

 private:
  std::vector<ApiKey> keys_;  // By hash.
};

}  // namespace sublet::internal
