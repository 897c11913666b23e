// mps/limit_probe.h
//
// Whether the limits of an MPS domain are real: a client of it that allocates to the wall.
//
// A limit can be set, be read back, and not hold (a client's own list of limits that names an
// absent device drops the server's, too; what was set after the server's start isn't the server's).
// So a process is started just as a client will be, and tries:
//
//   ProbeRequest request;
//   request.environment = EnvironmentOfAClient();
//   request.memory_limit = 10_GiB;
//   request.sm_percent = 25;
//   request.device_sm_count = 132;
//   ASSIGN_OR_RETURN(const ProbeReport report, ProbeLimits(*mps, request));
//
// What may surprise:
// - For some ten milliseconds the probe holds as much memory as the limit admits. It never takes
//   more than kProbeBeyondLimit above it, and nothing at all where there is no limit; but where the
//   neighbours have booked more than the GPU has, it can be in their way. So it belongs before the
//   domain's first client.
// - Its context counts against the limit, as any client's does.
//
// Thread safety: one thread at a time for each MpsDaemon; blocks until the probe has ended.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/child_process.h"
#include "base/result.h"
#include "base/user.h"
#include "mps/mps_daemon.h"

namespace sublet {

// The hidden verb that is the probe, and its flag with the bytes that it may try to have.
inline constexpr std::string_view kProbeVerb = "mps-probe";
inline constexpr std::string_view kProbeMostFlag = "--most-bytes";

// So much past a limit the probe tries, so that a limit which doesn't hold shows: more than what
// the driver rounds up to, and little beside what neighbours have.
inline constexpr Bytes kProbeBeyondLimit = Bytes::FromMib(64);
// The driver hands memory out in pieces of this size.
inline constexpr Bytes kProbePiece = Bytes::FromMib(2);
// What a client's context may take of its limit: measured, 526 MiB with all 132 SMs of an H200, and
// larger boards have up to 1.5 times as many.
inline constexpr Bytes kProbeContextMost = Bytes::FromMib(1024);

struct ProbeRequest {
  ChildEnvironment environment = {};  // Of a client of the domain.
  std::string program = {};           // This program, in another place; empty: itself.
  std::optional<UserIds> run_as = {};
  std::optional<Bytes> memory_limit = {};
  std::optional<int> sm_percent = {};
  int device_sm_count = 0;  // Of the device without a cap; 0: unknown, the cap isn't judged.
  double timeout_s = 30;    // Until it has its figures. A first client also starts the server.
};

// What the probe saw. The verb prints it as one line of JSON.
struct ProbeSight {
  Bytes granted;         // Allocated in all.
  bool refused = false;  // The driver refused more.
  Bytes free;            // By cuMemGetInfo, with the context made and nothing allocated.
  Bytes total;
  int sm_count = 0;  // By the device's attribute.
  // Whether the driver says that it runs under MPS; absent where it is too old to say.
  std::optional<bool> mps;
};
nlohmann::ordered_json ProbeSightToJson(const ProbeSight& sight);
Result<ProbeSight> ParseProbeSight(std::string_view text);

struct ProbeReport {
  ProbeSight sight;
  int pid = 0;
  bool was_client = false;  // In the client list of one of the daemon's servers.
  double seconds = 0;       // Until it had its figures.
};

// Starts the probe, hears it, asks the daemon for it, ends it, judges. Fails with kConflict where a
// limit doesn't bite (JudgeProbe), with kUnavailable where the probe can't be run or has no GPU,
// with the figures in the message.
Result<ProbeReport> ProbeLimits(MpsDaemon& mps, const ProbeRequest& request);

// Whether what was asked for is what was met: it was a client; memory was refused, at the limit and
// not kProbePiece above it nor more than kProbeContextMost below; and no more SMs than asked for,
// rounded up to pairs.
Status JudgeProbe(const ProbeRequest& request, const ProbeReport& report);

}  // namespace sublet
