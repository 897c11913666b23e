// model/daemon_config.h
//
// What an administrator tells `sublet daemon`: who may talk to it, which tenants there are and how
// much each may hold, what a GPU's errors mean. docs/formats/daemon.md describes the file:
//
//   version: sublet.daemon/v1
//   socket: {group: gpu-users}
//   tenants:
//     - {name: search, users: [alice, 1001], run_as: search, quota: {gpu_memory: 40GiB}}
//
//   ASSIGN_OR_RETURN(const DaemonConfig config, ParseDaemonConfig(text, "daemon.yaml"));
//
// A file without tenants, and no file: each user is a tenant by the user's name, without a quota.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace sublet {

inline constexpr std::string_view kDaemonConfigVersion = "sublet.daemon/v1";

// The most that a tenant's shares may hold together, on all GPUs of the node; absent: no limit.
struct TenantQuota {
  std::optional<Bytes> gpu_memory;  // As it is booked: CUDA contexts included.
  std::optional<int> sm_percent;    // Of one GPU's SMs: 250 is two GPUs and a half.
  std::optional<int> shares;

  friend bool operator==(const TenantQuota&, const TenantQuota&) = default;
};

struct TenantConfig {
  std::string name;                // As model/name.h has it.
  std::vector<std::string> users;  // Names or decimal ids; who may act for the tenant.
  // The user, name or decimal id, as whom the tenant's replicas and MPS servers run; empty: the
  // daemon's own.
  std::string run_as;
  TenantQuota quota;

  friend bool operator==(const TenantConfig&, const TenantConfig&) = default;
};

struct DaemonConfig {
  std::string socket_path;      // Absolute; empty: where the daemon would put it.
  std::string socket_group;     // May connect; empty: nobody but the daemon's user and root.
  unsigned socket_mode = 0600;  // Absent in the file: 0660 with a group, otherwise 0600.

  std::string listen_address;  // "127.0.0.1" or "::1"; empty: no TCP.
  int listen_port = 0;
  std::string token_file;  // Absolute; there exactly with a listen_address.

  std::vector<TenantConfig> tenants;  // Each name once.
  // Verdicts that differ from the node's own, in the order of the file: "109=tenant, 94=gpu".
  std::string xids;
};

// Strict, as every reader here.
Result<DaemonConfig> ParseDaemonConfig(std::string_view text, std::string_view source);

}  // namespace sublet
