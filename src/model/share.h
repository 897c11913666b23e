// model/share.h
//
// A share: the part of a GPU that one running process holds, and who asked for it.
//
// A request says what is wanted; the node's admission (node/admission.h) answers with a Share or
// with the reason why not. `sublet run` holds one for the life of its command, each replica of a
// plan holds one for the life of the plan.
//
//   ShareRequest request{.tenant = "search", .memory = 10_GiB, .sm_percent = 20};
//   ASSIGN_OR_RETURN(Share share, Admit(ledger, request));
//   share.enforcement      // who makes the limits real, and what isn't enforced
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/plan.h"

namespace sublet {

struct Node;  // model/document.h

// Variables that decide on which GPU, through which server and within which limits a process runs.
// Whoever launches it must own them, because a client can drop its limits by setting them: a
// workload that sets one is refused.
bool IsShareVariable(std::string_view name);

// What a process asks for. JSON: the field names, memory as "memory_mib", absent optionals left
// out.
struct ShareRequest {
  std::string name;    // For people: the command's name, a replica's id.
  std::string tenant;  // Empty: the tenant of the user who asks.
  // Absent: exclusive where neither memory nor SMs are limited, else the first of mps and mig that
  // can enforce what is asked.
  std::optional<SharingMode> mode;
  std::optional<Bytes> memory;    // What the process may allocate, its CUDA context not counted.
  std::optional<int> sm_percent;  // Of the device's SMs, 1..100.
  std::string gpu;                // UUID of a GPU or MIG device, or an index; empty: any.
  std::string profile;            // A MIG profile's name; only with mode mig.
};

// What was granted.
struct Share {
  std::string id;      // "s17": never given twice by one state directory.
  std::string name;    // As in the request.
  std::string tenant;  // Never empty.
  SharingMode mode = SharingMode::kExclusive;
  std::string gpu_uuid;               // "GPU-..."
  std::string mig_uuid;               // "MIG-..." of the compute instance; empty: the whole GPU.
  Bytes memory;                       // Booked on the device: limit and CUDA context.
  std::optional<Bytes> memory_limit;  // Set on each of its processes; absent: none.
  std::optional<int> sm_percent;      // Cap in percent of the device's SMs; absent: none.
  std::string domain;  // The MPS server that it is a client of (Domain::name); empty without MPS.
  std::vector<Enforcement> enforcement;
  std::string reason;  // One sentence: why this GPU, why this mode.

  // What CUDA_VISIBLE_DEVICES gets.
  const std::string& device_uuid() const { return mig_uuid.empty() ? gpu_uuid : mig_uuid; }
};

nlohmann::ordered_json ShareRequestToJson(const ShareRequest& request);
// Strict, as every reader here: unknown keys, a percentage out of range, a memory of 0, a profile
// without mode mig fail with kInvalid. `source` names the text in messages.
Result<ShareRequest> ParseShareRequest(std::string_view text, std::string_view source);

nlohmann::ordered_json ShareToJson(const Share& share);
Result<Share> ParseShare(std::string_view text, std::string_view source);

// One CUDA MPS control daemon and its server: one fault domain. It belongs to one tenant.
struct Domain {
  std::string name;      // "gpu0-search": unique on the node, fit for a folder.
  std::string tenant;    // Whose clients it takes.
  std::string gpu_uuid;  // "GPU-..."
  std::string mig_uuid;  // "MIG-..." where it serves a MIG device; else empty.
  // The user as whom it runs, and whose processes alone it takes; absent: the tenant's own.
  std::optional<std::int64_t> uid;
  // Server default: no client gets more, its CUDA context counted.
  std::optional<Bytes> memory_limit;
  std::optional<int> sm_percent;  // Server default.
  // From a plan, or made for a `sublet run`: then it goes with its last share.
  bool planned = false;

  const std::string& device_uuid() const { return mig_uuid.empty() ? gpu_uuid : mig_uuid; }
  friend bool operator==(const Domain&, const Domain&) = default;
};

nlohmann::ordered_json DomainToJson(const Domain& domain);
Result<Domain> ParseDomain(std::string_view text, std::string_view source);

// For codecs of values that carry one of these within.
Result<ShareRequest> ReadShareRequest(const Node& node);
Result<Share> ReadShare(const Node& node);
Result<Domain> ReadDomain(const Node& node);

}  // namespace sublet
