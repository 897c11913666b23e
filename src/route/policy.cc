#include "route/policy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>

namespace sublet {
namespace {

constexpr std::array kPolicies = {
    Policy{"cost", "the least milliseconds until the first token, for it and for the others",
           ChooseByCost},
    Policy{"cache-aware", "the longest match above a threshold while load is even, else least load",
           ChooseCacheAware},
    Policy{"consistent-hash", "by what the prompt begins with, within a bound on load",
           ChooseConsistentHash},
    Policy{"least-load", "the fewest tokens to prefill", ChooseLeastLoad},
    Policy{"power-of-two", "the less busy of two that are drawn", ChoosePowerOfTwo},
    Policy{"round-robin", "one after the other", ChooseRoundRobin},
    Policy{"session", "always the same for one session", ChooseBySession},
};

}  // namespace

std::span<const Policy> Policies() {
  return kPolicies;
}

std::vector<std::string> PolicyNames() {
  std::vector<std::string> names;
  for (const Policy& policy : kPolicies) names.emplace_back(policy.name);
  return names;
}

Result<Policy> FindPolicy(std::string_view name) {
  for (const Policy& policy : kPolicies) {
    if (policy.name == name) return policy;
  }
  return Fail(ErrorCode::kUsage, fmt::format("no such policy: {}", name),
              fmt::format("there are {}", fmt::join(PolicyNames(), ", ")));
}

}  // namespace sublet
