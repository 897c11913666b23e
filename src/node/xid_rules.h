// node/xid_rules.h
//
// What an XID says about a GPU: NVIDIA's numbers for what its driver reports, each with a verdict.
//
//   const XidJudgement judged = JudgeXid(event.xid, overrides);
//   if (judged.verdict == XidVerdict::kTenant) ...   // A program's own fault; the GPU is well.
//
// The table follows what NVIDIA's catalogue of XID errors (edition of driver 610) advises to do at
// once: "restart the application" is the tenant's, "reset the GPU" needs a reset. Where the verdict
// is another one, or the catalogue says "it depends", `why` tells the reason.
//
// A number that isn't in the table gets kGpu: no new work for a while, and recovery by itself. To
// trust it would put tenants on a GPU that may be broken; to demand a reset would take a node out
// of service for a number that a newer driver uses for something harmless.
//
// An operator overrides any of it: ParseXidOverrides("31=gpu, 119=gpu-reset, 500-599=ignore").
//
// Thread safety: pure functions.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sublet {

// ignore: information, or the sequel of another event. tenant: a program's own error; its fault
// domain suffers, the GPU doesn't. gpu: unhealthy until it has been quiet for a while. gpu-reset:
// unhealthy until it was seen to have been reset, or an operator says so.
enum class XidVerdict { kIgnore, kTenant, kGpu, kGpuReset };
std::string_view XidVerdictName(XidVerdict verdict);

// The numbers from `first` to `last`, both included.
struct XidRule {
  int first = 0;
  int last = 0;
  std::string_view name;  // "fallen off the bus"
  XidVerdict verdict = XidVerdict::kGpu;
  std::string_view why;  // One sentence.
};

// Ascending by number, without overlaps.
std::span<const XidRule> XidCatalogue();

using XidOverrides = std::map<int, XidVerdict>;

struct XidJudgement {
  int xid = 0;
  std::string_view name;  // "unknown" where the catalogue doesn't have it.
  XidVerdict verdict = XidVerdict::kGpu;
  std::string_view why;
  bool overridden = false;

  std::string Text() const;  // "XID 79 (fallen off the bus)"
};

XidJudgement JudgeXid(int xid, const XidOverrides& overrides);

// Numbers or ranges with a verdict each, separated by commas; blanks don't count. Later entries
// win. Fails with kInvalid on unknown verdicts, numbers outside 1..1023 and empty entries.
Result<XidOverrides> ParseXidOverrides(std::string_view text);

}  // namespace sublet
