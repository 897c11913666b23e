// render/needs.h
//
// What a plan asks of whoever carries it out, and which target can express it.
//
// The table of who can what stands in needs.cc, once, so that a target's refusal and its proposal
// of others can't disagree.
//
//   for (const Need& need : FindNeeds(deployment))
//     if (!CanExpress(Target::kKubernetes, need.kind)) ... need.what
//
// Thread safety: no shared state.
#pragma once

#include <string>
#include <vector>

#include "render/deployment.h"
#include "render/render.h"

namespace sublet {

enum class NeedKind {
  kSeveralServers,       // Several MPS servers on one GPU or MIG instance.
  kMpsInMig,             // MPS within a MIG instance.
  kMpsBesideMig,         // GPUs with MPS and GPUs with MIG in one node.
  kModesDiffer,          // MPS on one GPU of a node, something else on another.
  kReplicaCountsDiffer,  // GPUs or instances of one kind in a node, with different numbers of
                         // clients.
  kUnequalShares,        // Clients of one GPU with different limits.
  kMoreThanEqualPart,    // A client that may have more than an equal part.
  kSingleMpsClient,      // MPS limits for one client alone.
  kWhoSharesWithWhom,    // Different workloads, several GPUs: which ones meet on one GPU.
  kLimitsWithoutMps,     // A limit of memory or SMs on a process that no MPS server limits.
  kImage,                // A container image, which the plan doesn't give.
  kCommand,              // A command, which the plan doesn't give.
  kGpuIndex,  // GPUs of one node with different MIG layouts, and no index to tell them by.
};
// All of them, in the order above.
const std::vector<NeedKind>& AllNeedKinds();

struct Need {
  NeedKind kind = NeedKind::kImage;
  std::string what;  // Names it: "gpu0 has 2 MPS servers (gpu0-a, gpu0-b)".
};

// In the order of the plan's GPUs, then workloads; at most one of a kind for each GPU or node.
std::vector<Need> FindNeeds(const Deployment& deployment);

// True also where the target has nothing to do with it: `mig` says nothing about processes.
bool CanExpress(Target target, NeedKind kind);

// The targets that carry out all of `needs`, processes included: `mig` and `nvidia-device-plugin`
// are never among them, because they only prepare GPUs for others.
std::vector<Target> TargetsFor(const std::vector<Need>& needs);

}  // namespace sublet
