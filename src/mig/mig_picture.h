// mig/mig_picture.h
//
// A change of MIG as a person reads it: for each GPU its memory units before and after, and the
// steps between.
//
//   fmt::print("{}", MigChangeText(gpu, target, steps, reasons, Painter(WantsColour())));
//
//   GPU 0  NVIDIA A100-SXM4-80GB  GPU-53...
//     unit    0       1       2       3       4       5       6       7
//     before |3g.40gb                        |1g.10gb| -     | -     | -     |
//     after  |1g.10gb|1g.10gb|2g.20gb        |1g.10gb| -     | -     | -     |
//       1  destroy 3g.40gb at 0, GPU instance 1
//       2  create 1g.10gb at 0
//     ...
//     1g.10gb at 4  stays: it is there already
//
// What goes is in the colour of what is bad, what comes in that of what is good.
//
// Thread safety: pure functions.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/terminal.h"
#include "mig/mig_change.h"

namespace sublet {

// `steps` may be those of a whole node; the GPU's own are shown. `reasons`, one for each of the
// target's instances, may be left out.
std::string MigChangeText(const Gpu& now, const MigTarget& target, std::span<const MigStep> steps,
                          const std::vector<std::string>& reasons, const Painter& paint);

}  // namespace sublet
