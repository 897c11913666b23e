#include "node/tenancy.h"

#include <fmt/format.h>

#include <algorithm>

#include "model/document.h"

namespace sublet {
namespace {

constexpr std::string_view kDefaultTenant = "default";

std::string NameOf(const Requester& requester) {
  return requester.user.empty() ? std::to_string(requester.uid) : requester.user;
}

bool Lists(const TenantConfig& tenant, const Requester& requester) {
  const std::string number = std::to_string(requester.uid);
  return std::any_of(tenant.users.begin(), tenant.users.end(), [&](const std::string& user) {
    return user == number || (!user.empty() && user == requester.user);
  });
}

// "lab, search"
std::string NamesOf(const std::vector<const TenantConfig*>& tenants) {
  std::string names;
  for (const TenantConfig* tenant : tenants) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", tenant->name);
  }
  return names;
}

Result<std::string> WithoutConfiguration(const Requester& requester, const std::string& asked) {
  if (requester.own_daemon) return asked.empty() ? std::string(kDefaultTenant) : asked;
  const std::string own = NameOf(requester);
  if (asked.empty() || asked == own) return own;
  return Fail(ErrorCode::kPermission,
              fmt::format("user {} is the tenant {}, not '{}'", own, own, asked.substr(0, 64)),
              "tenants with several users stand in the daemon's configuration (--config)");
}

Result<std::string> Named(const std::vector<TenantConfig>& tenants, const Requester& requester,
                          const std::string& asked) {
  std::vector<std::string_view> known;
  for (const TenantConfig& tenant : tenants) {
    known.push_back(tenant.name);
    if (tenant.name != asked) continue;
    if (requester.own_daemon || Lists(tenant, requester)) return asked;
    return Fail(ErrorCode::kPermission,
                fmt::format("user {} may not act for tenant {}", NameOf(requester), asked),
                fmt::format("the daemon's configuration lists the users of tenant {}", asked));
  }
  return Fail(ErrorCode::kNotFound, fmt::format("no such tenant: '{}'", asked.substr(0, 64)),
              SuggestFor(asked, known));
}

}  // namespace

Result<std::string> TenantFor(const std::vector<TenantConfig>& tenants, const Requester& requester,
                              const std::string& asked) {
  if (tenants.empty()) return WithoutConfiguration(requester, asked);
  if (!asked.empty()) return Named(tenants, requester, asked);
  std::vector<const TenantConfig*> own;
  std::vector<const TenantConfig*> all;
  for (const TenantConfig& tenant : tenants) {
    all.push_back(&tenant);
    if (Lists(tenant, requester)) own.push_back(&tenant);
  }
  if (own.empty() && requester.own_daemon) own = all;
  if (own.size() == 1) return own.front()->name;
  if (own.empty()) {
    return Fail(ErrorCode::kPermission,
                fmt::format("user {} is in no tenant of this node", NameOf(requester)),
                "an administrator adds users to tenants in the daemon's configuration");
  }
  return Fail(
      ErrorCode::kInvalid,
      fmt::format("user {} may act for several tenants: {}", NameOf(requester), NamesOf(own)),
      fmt::format("say for which: --tenant {}", own.front()->name));
}

}  // namespace sublet
