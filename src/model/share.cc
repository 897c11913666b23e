#include "model/share.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "model/document.h"
#include "model/json_fields.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

constexpr Range kSmPercent{.min = 1, .max = 100};
constexpr Range kUid{.min = 0, .max = 4294967294};  // One more means "nobody" to the kernel.

Json EnforcementToJson(const Enforcement& enforcement) {
  return {{"what", enforcement.what}, {"by", enforcement.by}, {"enforced", enforcement.enforced}};
}

Result<Enforcement> ReadEnforcement(const Node& node) {
  Enforcement enforcement;
  ObjectReader in(node, "enforcement");
  in.Required("what", enforcement.what);
  in.Required("by", enforcement.by);
  in.Required("enforced", enforcement.enforced);
  RETURN_IF_ERROR(in.Finish());
  return enforcement;
}

Result<std::string> ReadText(const Node& node) {
  ASSIGN_OR_RETURN(std::string text, ReadString(node));
  if (text.empty()) return FailAt(node, "this must not be empty");
  return text;
}

// A limit of nothing would stop every program at its first allocation: it is a slip.
Result<Bytes> ReadLimit(const Node& node) {
  ASSIGN_OR_RETURN(const Bytes memory, ReadMib(node));
  if (memory.count == 0) return FailAt(node, "a limit of 0 MiB lets nothing run");
  return memory;
}

}  // namespace

bool IsShareVariable(std::string_view name) {
  static constexpr std::array<std::string_view, 3> kExact = {
      "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"};
  return name.starts_with("CUDA_MPS_") || name.starts_with("SUBLET_") ||
         std::find(kExact.begin(), kExact.end(), name) != kExact.end();
}

Json ShareRequestToJson(const ShareRequest& request) {
  Json json = Json::object();
  PutField(json, "name", request.name);
  PutField(json, "tenant", request.tenant);
  if (request.mode) json["mode"] = SharingModeName(*request.mode);
  PutField(json, "memory_mib", request.memory);
  PutField(json, "sm_percent", request.sm_percent);
  PutField(json, "gpu", request.gpu);
  PutField(json, "profile", request.profile);
  return json;
}

Result<ShareRequest> ReadShareRequest(const Node& node) {
  ShareRequest request;
  SharingMode mode = SharingMode::kExclusive;
  ObjectReader in(node, "share request");
  in.Optional("name", request.name);
  in.Optional("tenant", request.tenant);
  in.OptionalEnum("mode", mode, SharingModeWords());
  in.Optional("memory_mib", request.memory, ReadLimit);
  in.Optional("sm_percent", request.sm_percent, kSmPercent);
  in.Optional("gpu", request.gpu);
  in.Optional("profile", request.profile);
  if (in.Has("mode")) request.mode = mode;
  if (mode == SharingMode::kStreams) {
    in.Reject("mode", "streams share a GPU inside one process, so no share can have that mode",
              "ask for exclusive, mps, time-slicing or mig");
  }
  if (!request.profile.empty() && mode != SharingMode::kMig) {
    in.Reject("profile", fmt::format("a profile is for mode mig: '{}'", request.profile),
              "add the mode mig, or leave the profile out");
  }
  RETURN_IF_ERROR(in.Finish());
  return request;
}

Result<ShareRequest> ParseShareRequest(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadShareRequest);
}

Json ShareToJson(const Share& share) {
  Json json{{"id", share.id}, {"name", share.name}, {"tenant", share.tenant}};
  json["mode"] = SharingModeName(share.mode);
  json["gpu_uuid"] = share.gpu_uuid;
  PutField(json, "mig_uuid", share.mig_uuid);
  json["memory_mib"] = share.memory.mib_rounded_up();
  PutField(json, "memory_limit_mib", share.memory_limit);
  PutField(json, "sm_percent", share.sm_percent);
  PutField(json, "domain", share.domain);
  json["enforcement"] = ListToJson(share.enforcement, EnforcementToJson);
  PutField(json, "reason", share.reason);
  return json;
}

Result<Share> ReadShare(const Node& node) {
  Share share;
  ObjectReader in(node, "share");
  in.Required("id", share.id);
  in.Required("name", share.name);
  in.Required("tenant", share.tenant, ReadText);
  in.RequiredEnum("mode", share.mode, SharingModeWords());
  in.Required("gpu_uuid", share.gpu_uuid, ReadText);
  in.Optional("mig_uuid", share.mig_uuid);
  in.Required("memory_mib", share.memory, ReadMib);
  in.Optional("memory_limit_mib", share.memory_limit, ReadLimit);
  in.Optional("sm_percent", share.sm_percent, kSmPercent);
  in.Optional("domain", share.domain);
  in.RequiredList("enforcement", share.enforcement, ReadEnforcement);
  in.Optional("reason", share.reason);
  if ((share.mode == SharingMode::kMps) == share.domain.empty()) {
    in.Reject("domain", "a share has a domain exactly when its mode is mps");
  }
  RETURN_IF_ERROR(in.Finish());
  return share;
}

Result<Share> ParseShare(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadShare);
}

Json DomainToJson(const Domain& domain) {
  Json json{{"name", domain.name}, {"tenant", domain.tenant}, {"gpu_uuid", domain.gpu_uuid}};
  PutField(json, "mig_uuid", domain.mig_uuid);
  PutField(json, "uid", domain.uid);
  PutField(json, "memory_limit_mib", domain.memory_limit);
  PutField(json, "sm_percent", domain.sm_percent);
  json["planned"] = domain.planned;
  return json;
}

Result<Domain> ReadDomain(const Node& node) {
  Domain domain;
  ObjectReader in(node, "domain");
  in.Required("name", domain.name, ReadText);
  in.Required("tenant", domain.tenant);  // Empty in a plan whose tenants share a server.
  in.Required("gpu_uuid", domain.gpu_uuid, ReadText);
  in.Optional("mig_uuid", domain.mig_uuid);
  in.Optional("uid", domain.uid, kUid);
  in.Optional("memory_limit_mib", domain.memory_limit, ReadLimit);
  in.Optional("sm_percent", domain.sm_percent, kSmPercent);
  in.Required("planned", domain.planned);
  RETURN_IF_ERROR(in.Finish());
  return domain;
}

Result<Domain> ParseDomain(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadDomain);
}

}  // namespace sublet
