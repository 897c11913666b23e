#include "model/daemon_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "model/document.h"
#include "model/name.h"

namespace sublet {
namespace {

constexpr std::size_t kSocketPathMax = 107;  // sun_path of a UNIX socket, without its end.
constexpr int kPortMax = 65535;
constexpr int kXidMax = 1023;
constexpr std::size_t kUserNameMax = 64;
// No machine has more GPUs or processes than these allow; what is above is a slip.
constexpr Range kQuotaSmPercent{.min = 1, .max = 100'000};
constexpr Range kQuotaShares{.min = 1, .max = 100'000};

// Decimal digits alone, at most `max`; else -1.
int NumberOf(std::string_view text, int max) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && !text.starts_with('-') && number <= max ? number : -1;
}

Result<std::string> ReadPath(const Node& node) {
  Result<std::string> path = ReadString(node);
  if (!path || path->starts_with('/')) return path;
  return FailAt(node, fmt::format("not an absolute path: '{}'", path->substr(0, 64)),
                "begin it with /, because a service has no folder of its own");
}

Result<std::string> ReadSocketPath(const Node& node) {
  ASSIGN_OR_RETURN(std::string path, ReadPath(node));
  if (path.size() <= kSocketPathMax) return path;
  return FailAt(node, fmt::format("longer than the {} bytes that a socket's path may have: {}",
                                  kSocketPathMax, path.size()));
}

// A user or group: its name, or its number.
Result<std::string> ReadAccount(const Node& node) {
  ASSIGN_OR_RETURN(std::string name, ReadString(node));
  const bool fit = !name.empty() && name.size() <= kUserNameMax && name[0] != '-' &&
                   std::all_of(name.begin(), name.end(), [](char c) {
                     return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                            (c >= '0' && c <= '9') ||
                            std::string_view("_-.@+$").find(c) != std::string_view::npos;
                   });
  if (fit) return name;
  return FailAt(node, fmt::format("not a name or number of an account: '{}'", name.substr(0, 64)),
                "write it as id(1) prints it: alice, or 1001");
}

Result<unsigned> ReadMode(const Node& node) {
  ASSIGN_OR_RETURN(const std::string text, ReadString(node));
  for (const auto& [word, mode] : {std::pair("0600", 0600u), {"0660", 0660u}, {"0666", 0666u}}) {
    if (text == word) return mode;
  }
  return FailAt(node, fmt::format("not a mode of a socket: '{}'", text.substr(0, 64)),
                "0600: the daemon's user, 0660: the group too, 0666: every user of the machine");
}

Status ReadSocket(const Node& node, DaemonConfig& config) {
  std::optional<unsigned> mode;
  ObjectReader in(node, "socket");
  in.Optional("path", config.socket_path, ReadSocketPath);
  in.Optional("group", config.socket_group, ReadAccount);
  in.Optional("mode", mode, ReadMode);
  config.socket_mode = mode.value_or(config.socket_group.empty() ? 0600 : 0660);
  if (!config.socket_group.empty() && config.socket_mode == 0600) {
    in.Reject("mode", "mode 0600 keeps out the group that is given", "leave one of the two out");
  }
  if (config.socket_group.empty() && config.socket_mode == 0660) {
    in.Reject("mode", "mode 0660 without a group lets nobody in",
              "give the group that may connect");
  }
  return in.Finish();
}

// "127.0.0.1:7771", "[::1]:7771"
Status ReadAddress(const Node& node, DaemonConfig& config) {
  ASSIGN_OR_RETURN(const std::string text, ReadString(node));
  const std::size_t colon = text.rfind(':');
  const int port = colon == std::string::npos
                       ? -1
                       : NumberOf(std::string_view(text).substr(colon + 1), kPortMax);
  std::string address = text.substr(0, colon == std::string::npos ? 0 : colon);
  const bool bracketed = address.starts_with('[') && address.ends_with(']');
  if (bracketed) address = address.substr(1, address.size() - 2);
  const bool numeric = !address.empty() &&
                       address.find_first_not_of("0123456789abcdefABCDEF.:") == std::string::npos;
  if (port < 1 || !numeric || bracketed != (address.find(':') != std::string::npos)) {
    return FailAt(node, fmt::format("not an address with a port: '{}'", text.substr(0, 64)),
                  "write it like 127.0.0.1:7771 or [::1]:7771");
  }
  config.listen_address = std::move(address);
  config.listen_port = port;
  return {};
}

Status ReadListen(const Node& node, DaemonConfig& config) {
  bool read = false;  // Where the address has been stored already.
  ObjectReader in(node, "listen");
  in.Required("address", read, [&](const Node& address) -> Result<bool> {
    RETURN_IF_ERROR(ReadAddress(address, config));
    return true;
  });
  in.Required("token_file", config.token_file, ReadPath);
  return in.Finish();
}

Result<TenantQuota> ReadQuota(const Node& node) {
  TenantQuota quota;
  ObjectReader in(node, "quota");
  in.Optional("gpu_memory", quota.gpu_memory, [](const Node& amount) -> Result<Bytes> {
    ASSIGN_OR_RETURN(const Bytes memory, ReadBytes(amount));
    if (memory >= 1_MiB) return memory;
    return FailAt(amount, fmt::format("too little memory to be meant: {}", FormatBytes(memory)),
                  "a number without unit counts bytes; write it like 40GiB");
  });
  in.Optional("sm_percent", quota.sm_percent, kQuotaSmPercent);
  in.Optional("shares", quota.shares, kQuotaShares);
  RETURN_IF_ERROR(in.Finish());
  return quota;
}

Result<TenantConfig> ReadTenantConfig(const Node& node) {
  TenantConfig tenant;
  ObjectReader in(node, "tenant");
  in.Required("name", tenant.name, ReadName);
  in.OptionalList("users", tenant.users, ReadAccount);
  in.Optional("run_as", tenant.run_as, ReadAccount);
  in.Optional("quota", tenant.quota, ReadQuota);
  RETURN_IF_ERROR(in.Finish());
  return tenant;
}

// "109", or "500-599".
bool IsXidRange(std::string_view text) {
  const std::size_t dash = text.find('-');
  const int first = NumberOf(text.substr(0, dash), kXidMax);
  const int last =
      dash == std::string_view::npos ? first : NumberOf(text.substr(dash + 1), kXidMax);
  return first >= 1 && last >= first;
}

Result<std::string> ReadXids(const Node& node) {
  if (node.kind != Node::Kind::kMap) return FailAt(node, "a map from numbers to verdicts");
  static const std::vector<std::string_view> kVerdicts{"ignore", "tenant", "gpu", "gpu-reset"};
  std::string xids;
  for (const auto& [number, verdict] : node.fields) {
    if (!IsXidRange(number)) {
      return FailAt(verdict,
                    fmt::format("not an XID from 1 to {}: '{}'", kXidMax, number.substr(0, 64)),
                    "write a number, or two with '-' between them");
    }
    ASSIGN_OR_RETURN(const std::string word, ReadString(verdict));
    if (std::find(kVerdicts.begin(), kVerdicts.end(), word) == kVerdicts.end()) {
      return FailAt(verdict, fmt::format("unknown verdict: '{}'", word.substr(0, 64)),
                    SuggestFor(word, kVerdicts));
    }
    xids += fmt::format("{}{}={}", xids.empty() ? "" : ", ", number, word);
  }
  return xids;
}

Result<std::string> ReadHealth(const Node& node) {
  std::string xids;
  ObjectReader in(node, "health");
  in.Optional("xids", xids, ReadXids);
  RETURN_IF_ERROR(in.Finish());
  return xids;
}

Result<DaemonConfig> ReadDaemonConfig(const Node& node) {
  DaemonConfig config;
  bool read = false;
  const auto part = [&](Status (*reader)(const Node&, DaemonConfig&)) {
    return [&config, reader](const Node& field) -> Result<bool> {
      RETURN_IF_ERROR(reader(field, config));
      return true;
    };
  };
  ObjectReader in(node, "daemon's configuration");
  in.Version(kDaemonConfigVersion);
  in.Optional("socket", read, part(ReadSocket));
  in.Optional("listen", read, part(ReadListen));
  in.OptionalList("tenants", config.tenants, [&](const Node& item) -> Result<TenantConfig> {
    ASSIGN_OR_RETURN(TenantConfig tenant, ReadTenantConfig(item));
    return tenant;
  });
  for (std::size_t i = 0; i < config.tenants.size(); ++i) {
    const auto before = config.tenants.begin() + static_cast<std::ptrdiff_t>(i);
    if (std::any_of(config.tenants.begin(), before,
                    [&](const TenantConfig& other) { return other.name == before->name; })) {
      in.Reject("tenants", fmt::format("two tenants of one name: '{}'", before->name));
    }
  }
  in.Optional("health", config.xids, ReadHealth);
  RETURN_IF_ERROR(in.Finish());
  return config;
}

}  // namespace

Result<DaemonConfig> ParseDaemonConfig(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadDaemonConfig);
}

}  // namespace sublet
