// proxy/key_file.h
//
// The files that hold secrets, read with a look at who else could read or change them.
//
//   ASSIGN_OR_RETURN(const RouteKeys keys, ReadKeyFile("/etc/sublet/keys.yaml"));
//   options.api_keys = ApiKeysOf(keys, rates);
//
// Thread safety: no shared state; a KeyRateBook is its owner's, what it gives out is any thread's.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/route_keys.h"
#include "proxy/proxy_options.h"

namespace sublet {

// Fails with kPermission where the file isn't root's or this user's, where others could write it,
// or where it has a key in the clear and others could read it; as ReadFile() and ParseRouteKeys()
// do.
Result<RouteKeys> ReadKeyFile(const std::string& path);

// A secret alone in a file, without blanks around it; only its owner may read it.
Result<std::string> ReadSecretFile(const std::string& path);

// What each key has left of its rates, kept while the file is read again and again.
class KeyRateBook {
 public:
  // The same as before where the key's name and limits are; null where it has none.
  std::shared_ptr<KeyRates> For(const RouteKey& key);

 private:
  struct Entry {
    std::optional<double> requests_per_minute;
    std::optional<double> tokens_per_minute;
    std::shared_ptr<KeyRates> rates;
  };
  std::map<std::string, Entry> entries_;
};

std::vector<ApiKey> ApiKeysOf(const RouteKeys& keys, KeyRateBook& rates);

}  // namespace sublet
