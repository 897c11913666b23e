#include "model/route_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "model/document.h"
#include "model/name.h"

namespace sublet {
namespace {

constexpr std::size_t kPlainBytesMin = 16;   // 96 bits in base64: nobody guesses that.
constexpr std::size_t kPlainBytesMax = 512;  // Tokens of identity providers have their own ways in.
constexpr std::size_t kKeysMax = 100'000;
constexpr Range kRate{.min = 0.001, .max = 1e12};

// What is wrong isn't shown: it is a secret.
Result<std::string> ReadPlainKey(const Node& node) {
  ASSIGN_OR_RETURN(std::string key, ReadString(node));
  const bool printable =
      std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < '\x7f'; });
  if (printable && key.size() >= kPlainBytesMin && key.size() <= kPlainBytesMax) return key;
  return FailAt(node,
                fmt::format("a key has {} to {} printable characters without spaces, not: {}",
                            kPlainBytesMin, kPlainBytesMax, key.size()),
                "openssl rand -hex 24 makes one");
}

Result<std::string> ReadDigest(const Node& node) {
  ASSIGN_OR_RETURN(std::string digest, ReadString(node));
  std::transform(digest.begin(), digest.end(), digest.begin(), [](char c) {
    return c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  if (digest.size() == 64 && digest.find_first_not_of("0123456789abcdef") == std::string::npos) {
    return digest;
  }
  return FailAt(node, fmt::format("64 hexadecimal digits are expected, not: {}", digest.size()),
                "printf %s \"$KEY\" | sha256sum prints them");
}

const std::vector<std::pair<std::string_view, KeyPriority>>& PriorityWords() {
  static const std::vector<std::pair<std::string_view, KeyPriority>> kWords{
      {"interactive", KeyPriority::kInteractive},
      {"normal", KeyPriority::kNormal},
      {"batch", KeyPriority::kBatch}};
  return kWords;
}

Result<RouteKey> ReadRouteKey(const Node& node) {
  RouteKey key;
  ObjectReader in(node, "key");
  in.Required("name", key.name, ReadName);
  in.Optional("key", key.plain, ReadPlainKey);
  in.Optional("sha256", key.sha256, ReadDigest);
  in.Optional("tenant", key.tenant, ReadName);
  in.OptionalEnum("priority", key.priority, PriorityWords());
  in.Optional("requests_per_minute", key.requests_per_minute, kRate);
  in.Optional("tokens_per_minute", key.tokens_per_minute, kRate);
  in.Optional("admin", key.admin);
  if (!in.Has("key") && !in.Has("sha256")) {
    in.RejectMissing("a 'sha256' or a 'key' is expected");
  }
  if (!key.plain.empty() && !key.sha256.empty()) {
    in.Reject("key", "both a key and its sha256 are given", "leave the key out");
  }
  RETURN_IF_ERROR(in.Finish());
  return key;
}

Result<RouteKeys> ReadRouteKeys(const Node& node) {
  RouteKeys keys;
  ObjectReader in(node, "route keys");
  in.Version(kRouteKeysVersion);
  in.RequiredList("keys", keys.keys, ReadRouteKey);
  if (keys.keys.size() > kKeysMax) {
    in.Reject("keys", fmt::format("more than {} keys: {}", kKeysMax, keys.keys.size()));
  }
  std::set<std::string_view> names;
  std::set<std::string_view> secrets;
  for (const RouteKey& key : keys.keys) {
    if (!names.insert(key.name).second) {
      in.Reject("keys", fmt::format("two keys of one name: '{}'", key.name));
    }
    if (!secrets.insert(key.plain.empty() ? key.sha256 : key.plain).second) {
      in.Reject("keys", fmt::format("one key under two names, the second: '{}'", key.name));
    }
  }
  RETURN_IF_ERROR(in.Finish());
  return keys;
}

}  // namespace

bool RouteKeys::HasPlain() const {
  return std::any_of(keys.begin(), keys.end(),
                     [](const RouteKey& key) { return !key.plain.empty(); });
}

Result<RouteKeys> ParseRouteKeys(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadRouteKeys);
}

}  // namespace sublet
