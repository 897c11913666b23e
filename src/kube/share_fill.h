// kube/share_fill.h
//
// How many shares of which size one device takes.
//
//   ASSIGN_OR_RETURN(const ShareFill fill, FillDevice(device, {&small, &large}, plan));
//   fill.counts      // one a rule
//
// Rules with a number come first, whatever their place in the file; those that fill take what is
// left, in the order of the file. Memory is never given out twice. SMs are caps, so numbers may add
// up to more than 100 %, which is a warning; a rule that fills doesn't do that.
//
// Thread safety: pure functions of values.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "kube/physical_devices.h"
#include "model/device_plugin_config.h"
#include "model/plan.h"

namespace sublet {

struct ShareFill {
  std::vector<int> counts;       // Of each rule; 0 where nothing is left for it.
  std::vector<ShareSize> sizes;  // Of each rule's shares: of an equal part where it gives none.
  std::vector<std::string> warnings;
};

// `rules`: those of mode mps on this device, or one of another mode. `plan`: for those whose count
// is the plan's; may be nullptr where there is none.
//
// Fails with kInfeasible where the numbers need more memory than there is, with kUnsupported where
// there are more clients than a server takes or limits can't be, with kConflict where the plan
// isn't for this node or has a replica that no rule is large enough for.
Result<ShareFill> FillDevice(const PhysicalDevice& device,
                             const std::vector<const ShareRule*>& rules, const Plan* plan);

// What one of `replicas` equal parts is, as NVIDIA's MPS control daemon divides: whole MiB of all
// the memory, whole percent.
ShareSize EqualPart(Bytes memory, int replicas);

}  // namespace sublet
