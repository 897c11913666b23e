// proxy/proxy_settings_of.h
//
// The route file's values as the options of those who act by them.
//
//   ASSIGN_OR_RETURN(const RouteSecrets secrets, ReadSecrets(config));
//   ProxyServer::Open(ProxyOptionsOf(config, secrets, rates), hooks);
//
// Thread safety: ReadSecrets() reads files; the rest is pure.
#pragma once

#include <string>

#include "base/result.h"
#include "model/route_config.h"
#include "model/route_keys.h"
#include "proxy/key_file.h"
#include "proxy/proxy_options.h"
#include "proxy/replica_watch.h"
#include "route/router.h"

namespace sublet {

// What stands in files of their own.
struct RouteSecrets {
  RouteKeys keys;
  std::string upstream;  // The bearer token for replicas; empty: none.
};

Result<RouteSecrets> ReadSecrets(const RouteConfig& config);

ProxyOptions ProxyOptionsOf(const RouteConfig& config, const RouteSecrets& secrets,
                            KeyRateBook& rates);
RouterOptions RouterOptionsOf(const RouteConfig& config);
WatchSettings WatchSettingsOf(const RouteConfig& config, const RouteSecrets& secrets);

}  // namespace sublet
