// model/route_keys.h
//
// Who may use a router: its API keys, with whose they are and how much they may ask.
// docs/formats/route.md describes the file:
//
//   version: sublet.route-keys/v1
//   keys:
//     - {name: shop-web, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08,
//        tenant: shop, priority: interactive, requests_per_minute: 600}
//
//   ASSIGN_OR_RETURN(const RouteKeys keys, ParseRouteKeys(text, "keys.yaml"));
//
// A key is its SHA-256 in hexadecimal digits, or itself; the file of the latter must be its owner's
// alone (proxy/key_file.h sees to it). Messages about a file never have a key in them.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sublet {

inline constexpr std::string_view kRouteKeysVersion = "sublet.route-keys/v1";

enum class KeyPriority { kInteractive, kNormal, kBatch };

struct RouteKey {
  std::string name;    // For logs and metrics; the key itself is in neither.
  std::string plain;   // Exactly one of these two is there.
  std::string sha256;  // 64 lower-case hexadecimal digits.
  std::string tenant = "default";
  KeyPriority priority = KeyPriority::kNormal;  // The best that its requests may have.
  std::optional<double> requests_per_minute;
  std::optional<double> tokens_per_minute;  // Of prompts.
  bool admin = false;                       // May change the workers.

  friend bool operator==(const RouteKey&, const RouteKey&) = default;
};

struct RouteKeys {
  std::vector<RouteKey> keys;  // Each name and each key once.

  // Some key stands there as itself.
  bool HasPlain() const;
  friend bool operator==(const RouteKeys&, const RouteKeys&) = default;
};

Result<RouteKeys> ParseRouteKeys(std::string_view text, std::string_view source);

}  // namespace sublet
