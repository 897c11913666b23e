#include "replay/replay.h"

#include <fmt/format.h>

#include "replay/policy_run.h"

namespace sublet {
namespace {

Status CheckOptions(const ReplayOptions& options) {
  if (options.fleet.empty()) return Fail(ErrorCode::kUsage, "a fleet without replicas");
  const auto in_range = [](double value, double min, double max) {
    return value >= min && value <= max;
  };
  for (const ReplayReplica& replica : options.fleet) {
    if (!in_range(replica.prefill_tokens_per_second, 1, 1e9) || replica.kv_blocks < 1) {
      return Fail(ErrorCode::kUsage, fmt::format("{} computes or holds nothing", replica.name));
    }
  }
  if (options.block_tokens < 1 || options.block_tokens > 65'536) {
    return Fail(ErrorCode::kUsage,
                fmt::format("blocks of so many tokens: {}", options.block_tokens));
  }
  if (!in_range(options.load, 1e-6, 1e6)) {
    return Fail(ErrorCode::kUsage, fmt::format("not a load: {}", options.load));
  }
  if (!in_range(options.event_delay_ms, 0, 60'000)) {
    return Fail(ErrorCode::kUsage, fmt::format("events so late: {} ms", options.event_delay_ms));
  }
  return {};
}

}  // namespace

Result<PolicyOutcome> ReplayPolicy(const Trace& trace, const ReplayOptions& options,
                                   std::string_view policy, const ReplayProgress& progress) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(const auto run, PolicyRun::Make(trace, options, policy));
  PolicyOutcome outcome = run->Run(progress);
  outcome.policy = policy;
  return outcome;
}

}  // namespace sublet
