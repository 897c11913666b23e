// kube/mig_manager.h
//
// MIG geometry by a label of the node: nvidia.com/mig.config names a label of a mig-parted file,
// nvidia.com/mig.config.state says how far it has come.
//
//   MigManager manager(work, api, options);
//   manager.TakeNode(node, now_s);                  // Whenever the node has changed.
//   const double next_s = manager.Step(now_s);      // And when it asked to be called again.
//
// One change goes so:
//
//   label ──► plan: nothing to do ─────────────────────────────────────────► success
//              │    can't be, or the file or the label in it isn't there ──► failed
//              ▼
//           pending, clients paused ──► their pods gone ──► steps done, read back ──► success
//              │                              │                  │ fails, all undone ──► failed
//              ▼ the API server is away:      ▼ too long         │ needs a reset, may reboot
//            nothing has begun              failed               ▼
//                                                             rebooting ──► after it: from the plan
//
// The state always ends in success, failed or rebooting:
//  - The last word (state, reason, clients restored) is one patch, and is tried until it is taken,
//    as long as this program runs.
//  - A program that was killed finds `pending` when it starts again and plans anew. Since planning
//    starts from what is there, what was done already is not done again. (Crash points: below.)
//  - Each wait has an end.
//
// Why it failed is in the annotation sublet.dev/mig.config.reason, and in an event. A failed change
// isn't tried again until the label, or what the file says for it, changes, or this program starts
// again; but where no driver was there to plan for, it is at each LookAgain(). `rebooting` is left
// only after a reboot: the boot's id is in an annotation. A mode that is still pending after it is
// a failure, not another reboot.
//
// Clients are the operands of NVIDIA's operator that its mig-manager pauses, too: where a label
// nvidia.com/gpu.deploy.<x> is "true", it says "paused-for-mig-change" until the change has ended,
// well or not. Sublet's own device plugin isn't paused: it follows MIG as it changes, and an
// instance in use is never touched.
//
// Thread safety: one thread at a time. The time is a parameter, in seconds of any monotonic clock.
#pragma once

#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kube/cluster_node.h"
#include "kube/node_object.h"

namespace sublet {

inline constexpr std::string_view kMigConfigLabel = "nvidia.com/mig.config";
inline constexpr std::string_view kMigStateLabel = "nvidia.com/mig.config.state";
inline constexpr std::string_view kMigReasonAnnotation = "sublet.dev/mig.config.reason";
inline constexpr std::string_view kMigBootAnnotation = "sublet.dev/mig.config.boot";
inline constexpr std::string_view kMigPaused = "paused-for-mig-change";

// Where a test may kill the program (base/crash_point.h): one by one, in the order of a change.
inline constexpr std::string_view kMigManagerCrashPoints[] = {
    "kube-mig-planned", "kube-mig-pending", "kube-mig-clients-gone", "kube-mig-applied",
    "kube-mig-settled"};

// A client whose pods are asked away during a change.
struct MigClient {
  std::string_view label;  // "nvidia.com/gpu.deploy.dcgm"
  std::string_view app;    // Its pods' label `app`.
};
const std::vector<MigClient>& MigClients();

// What is done to this machine's GPUs: exe wires it to mig/ and plan/.
class MigWork {
 public:
  virtual ~MigWork() = default;

  // How many steps lead from what is there to that label of the file, whoever uses the GPUs. Fails
  // where that can't be.
  virtual Result<int> Plan(std::string_view label) = 0;
  // Something of the file changes: it says so by changing this text.
  virtual Result<std::string> Fingerprint(std::string_view label) = 0;

  enum class Outcome { kDone, kNeedsReboot };
  // Does the steps, leaving alone what is in use, and reads the result back. Where it fails, all of
  // it is undone. kNeedsReboot: the MIG mode is set for the next boot.
  virtual Result<Outcome> Apply(std::string_view label) = 0;
  // The change has succeeded: what it began needs no undoing any more.
  virtual Status Keep() = 0;
  // The change has failed: undoes what is left of it, as of a run that was killed within Apply().
  virtual Status TakeBack() = 0;

  // Begins to reboot the machine, and returns.
  virtual Status Reboot() = 0;
  virtual std::string BootId() = 0;
};

struct MigManagerOptions {
  double clients_s = 300;  // For the clients' pods to go; NVIDIA's mig-manager waits as long.
  double look_s = 2;       // Between two looks at them.
  double retry_s = 5;      // After the API server couldn't be asked.
  double reboot_s = 600;   // For a reboot that was begun to come.
  // Of the clients' pods; empty: all namespaces.
  std::string client_namespace = "gpu-operator";
  // "2026-11-21T10:00:00Z", for events.
  std::string (*utc)() = nullptr;
};

class MigManager {
 public:
  static constexpr double kNever = std::numeric_limits<double>::infinity();

  // REQUIRES: work and api outlive it.
  MigManager(MigWork& work, ClusterNode& api, MigManagerOptions options)
      : work_(work), api_(api), options_(std::move(options)) {}

  // The node as it is now.
  void TakeNode(const NodeObject& node);
  // Goes as far as it can without waiting, and returns when to be called again.
  double Step(double now_s);
  // The file may have changed: look at it again.
  void LookAgain() { look_ = true; }

  // The GPUs were changed since the last call.
  bool TakeChanged() { return std::exchange(changed_, false); }
  // What there is to tell people since the last call.
  std::vector<std::string> TakeLines() { return std::exchange(lines_, {}); }
  bool Idle() const { return phase_ == Phase::kIdle; }

 private:
  enum class Phase { kIdle, kBegin, kWait, kApply, kSettle, kReboot, kAwaitReboot };

  double Consider(double now_s);
  double Begin(double now_s);
  double WaitForClients(double now_s);
  double Apply(double now_s);
  double Settle(double now_s);
  double Reboot(double now_s);
  double AwaitReboot(double now_s);

  void Conclude(std::string state, std::string reason);
  Result<NodeObject> PatchNode(const NodePatch& patch);
  void PauseClients(NodePatch& patch) const;
  void RestoreClients(NodePatch& patch) const;
  std::vector<std::string> PausedApps() const;
  void Say(std::string line) { lines_.push_back(std::move(line)); }

  MigWork& work_;
  ClusterNode& api_;
  MigManagerOptions options_;

  std::optional<NodeObject> node_;
  Phase phase_ = Phase::kIdle;
  bool look_ = true;     // Whether what is wanted is what was handled.
  std::string wanted_;   // The label that this change is for.
  std::string handled_;  // Label and fingerprint that were brought to an end; empty: none yet.
  std::string fingerprint_;
  double until_s_ = 0;  // The end of the wait of this phase.

  // The last word of this change, until the API server has it.
  std::string state_;
  std::string reason_;
  bool told_ = false;
  bool again_ = false;  // It may be another one at the next look.
  std::string said_;    // The last reason that people were told.

  bool changed_ = false;
  std::vector<std::string> lines_;
};

}  // namespace sublet
