#include "node/enforcement.h"

#include <string>
#include <string_view>

#include "model/enforcer.h"

namespace sublet {
namespace {

Enforcement By(const char* what, std::string_view by, bool enforced) {
  return {what, std::string(by), enforced};
}

std::vector<Enforcement> Alone(const Device& device, bool mig) {
  const std::string_view by = mig || !device.mig_uuid.empty() ? kByMigInstance : kByWholeGpu;
  return {By("memory", by, true), By("sm", by, true), By("fault", by, true)};
}

}  // namespace

std::vector<Enforcement> EnforcementOf(const ShareRequest& request, SharingMode mode,
                                       const Device& device) {
  if (mode == SharingMode::kExclusive || mode == SharingMode::kMig) {
    return Alone(device, mode == SharingMode::kMig);
  }
  if (mode == SharingMode::kTimeSlicing) {
    return {By("memory", kNoMemoryEnforcer, false), By("sm", kNoSmEnforcer, false),
            By("fault", kByOwnProcess, true)};
  }
  const bool capped = request.sm_percent.value_or(100) < 100;
  return {request.memory ? By("memory", kByMpsMemoryLimit, true)
                         : By("memory", kNoMemoryEnforcer, false),
          capped ? By("sm", kByMpsThreadPercentage, true) : By("sm", kNoSmCap, false),
          By("fault", kByTenantsServer, true)};
}

}  // namespace sublet
