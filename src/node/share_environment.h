// node/share_environment.h
//
// What a process of a share must be started with, so that it meets its GPU and its limits and
// nothing else.
//
//   CUDA_VISIBLE_DEVICES=GPU-5c1e...            the device, and no other
//   CUDA_MPS_PIPE_DIRECTORY=/run/sublet/mps/gpu0-search
//   CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=20
//   CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=10752M    the limit, the CUDA context counted
//   SUBLET_SHARE=s17  SUBLET_TENANT=search  SUBLET_STATE=/var/lib/sublet
//   SUBLET_RECORD={...}                         what the share is, for a store that was lost
//
// The memory limit is one entry, by its number among the visible: an entry for another GPU, even
// one that exists, would drop all limits (driver 580). MPS counts the context against it, so the
// share's whole booking stands there.
//
// Without MPS the pipe directory is one where no daemon can be: the default folder may hold
// somebody's, whose client the process would become.
//
// Thread safety: pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "model/share.h"
#include "node/launcher.h"
#include "node/node_parts.h"

namespace sublet {

// In the environment of a share's processes, and of an MPS domain's: what it is, as JSON. A store
// that was lost is made anew from these (`sublet daemon --rebuild`).
inline constexpr std::string_view kRecordVariable = "SUBLET_RECORD";

// What MPS is told: the limit with the context, rounded up to a MiB; absent where there is none.
std::optional<Bytes> PinnedLimit(const Share& share);

// `pipe_directory`: of the share's domain; empty without MPS. `record`: for SUBLET_RECORD; empty:
// the share itself.
EnvironmentChanges EnvironmentOf(const NodeSettings& settings, const Share& share,
                                 const std::string& pipe_directory, std::string record = {});

}  // namespace sublet
