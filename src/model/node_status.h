// model/node_status.h
//
// What a node does at this moment: each GPU's health, each share with what it uses, each MPS
// domain. The daemon answers GET /v1/status with it; `sublet ps` and `top` print it.
//
//   ASSIGN_OR_RETURN(const NodeStatus status, ParseNodeStatus(body, "the daemon's answer"));
//   for (const ShareStatus& share : status.shares) ...
//
// docs/formats/status.md has the JSON form: keys are the field names, amounts of memory whole MiB
// with the suffix _mib, times "2026-11-21T10:00:00Z", what isn't known is left out.
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
#include "model/share.h"

namespace sublet {

inline constexpr std::string_view kNodeStatusVersion = "sublet.status/v1";

// waiting: for its domain or its turn. starting: its process is there, its readiness probe hasn't
// succeeded yet. running: it works, and has no probe. ready: its probe has succeeded.
// backing-off: it ended and will be started again at a time that is known. ending: told to stop.
// stopped: it ended, and won't be started again.
enum class ShareState { kWaiting, kStarting, kRunning, kReady, kBackingOff, kEnding, kStopped };
const EnumWords<ShareState>& ShareStateWords();
std::string_view ShareStateName(ShareState state);

struct ShareStatus {
  Share share;
  bool replica = false;  // Of the plan that is up; false: of a `sublet run`.
  ShareState state = ShareState::kWaiting;
  std::string why;  // One sentence where the state isn't what was wanted; else empty.
  std::optional<int> pid;
  std::string user;                // Whose processes they are; empty without any.
  std::string since;               // Of the process; empty where there is none.
  std::optional<double> uptime_s;  // By the monotonic clock: no jump of the other shows here.
  int restarts = 0;
  std::string last_end;                   // "was killed by signal 9 (Killed)"; empty: never ended.
  std::optional<Bytes> memory_used;       // Of all its processes, by the driver.
  std::optional<double> sm_used_percent;  // Of the device, by the driver.
  std::string log;                        // Path; empty where its output isn't kept.
  std::optional<int> port = {};           // Where a replica listens, as its plan has it.
};

enum class DomainState { kStarting, kReady, kFaulted, kWedged, kEnding };
const EnumWords<DomainState>& DomainStateWords();
std::string_view DomainStateName(DomainState state);

struct DomainStatus {
  Domain domain;
  DomainState state = DomainState::kStarting;
  std::string why;
  std::optional<int> pid;  // Of the control daemon.
  std::string pipe_directory;
  int clients = 0;
  int restarts = 0;
  // Of the device, of all its clients together: the driver doesn't tell them apart.
  std::optional<double> sm_used_percent = {};
  bool limits_confirmed = false;  // A probe client allocated to the wall and met it.
};

// A process on a GPU that isn't Sublet's.
struct ForeignProcess {
  int pid = 0;
  std::string name;
  std::optional<Bytes> memory;
};

struct GpuStatus {
  std::string uuid;
  int index = 0;
  std::string product;
  Bytes memory;
  Bytes memory_used;
  Bytes memory_booked;  // By shares.
  bool mig = false;
  bool healthy = true;
  std::string why;  // Why it isn't: "XID 79 (fallen off the bus) at ..."; else empty.
  std::optional<int> utilisation_percent;
  std::vector<ForeignProcess> foreign;
};

struct NodeStatus {
  std::string hostname;
  std::string time;  // When this was seen.
  bool simulated = false;
  std::string plan;             // The plan's fleet name; empty: none is up.
  std::string operation;        // What is being done: "up shop: starting chat/3"; empty: nothing.
  std::vector<GpuStatus> gpus;  // Ascending index.
  std::vector<DomainStatus> domains;  // By name.
  std::vector<ShareStatus> shares;    // Replicas by name, then the others by id.
};

nlohmann::ordered_json NodeStatusToJson(const NodeStatus& status);
Result<NodeStatus> ParseNodeStatus(std::string_view text, std::string_view source);

// Something that happened, as the journal keeps it.
struct NodeEvent {
  std::int64_t sequence = 0;  // Ascending without gaps as long as the journal lives.
  std::string time;           // UTC, to the millisecond.
  // "share", "replica", "domain", "gpu", "mig", "plan", "daemon"
  std::string subject_kind;
  std::string subject;  // "chat/0", "gpu0-search", a GPU's UUID.
  std::string what;     // A word: "granted", "ended", "fault", "unhealthy", "recovered".
  std::string message;  // A sentence, with the values. Never a tenant's environment.
};

nlohmann::ordered_json NodeEventToJson(const NodeEvent& event);
Result<NodeEvent> ParseNodeEvent(std::string_view text, std::string_view source);

}  // namespace sublet
