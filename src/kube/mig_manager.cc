#include "kube/mig_manager.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/crash_point.h"

namespace sublet {
namespace {

constexpr std::size_t kReasonMax = 1000;  // Enough for a person; annotations share 256 KiB.
constexpr std::string_view kRun = "true";

std::string ReasonOf(const Error& error) {
  return error.hint.empty() ? error.message : fmt::format("{}; {}", error.message, error.hint);
}

}  // namespace

const std::vector<MigClient>& MigClients() {
  static const std::vector<MigClient> kClients = {
      {"nvidia.com/gpu.deploy.device-plugin", "nvidia-device-plugin-daemonset"},
      {"nvidia.com/gpu.deploy.gpu-feature-discovery", "gpu-feature-discovery"},
      {"nvidia.com/gpu.deploy.dcgm-exporter", "nvidia-dcgm-exporter"},
      {"nvidia.com/gpu.deploy.dcgm", "nvidia-dcgm"},
      {"nvidia.com/gpu.deploy.nvsm", "nvidia-nvsm"}};
  return kClients;
}

void MigManager::TakeNode(const NodeObject& node) {
  // A change that runs comes to its end first; what is wanted then is looked at after it.
  if (!node_ || node_->Label(kMigConfigLabel) != node.Label(kMigConfigLabel) ||
      node_->Label(kMigStateLabel) != node.Label(kMigStateLabel)) {
    look_ = true;
  }
  node_ = node;
}

double MigManager::Step(double now_s) {
  if (!node_) return kNever;
  while (true) {
    const Phase before = phase_;
    double next_s = kNever;
    switch (phase_) {
      case Phase::kIdle:
        next_s = Consider(now_s);
        break;
      case Phase::kBegin:
        next_s = Begin(now_s);
        break;
      case Phase::kWait:
        next_s = WaitForClients(now_s);
        break;
      case Phase::kApply:
        next_s = Apply(now_s);
        break;
      case Phase::kSettle:
        next_s = Settle(now_s);
        break;
      case Phase::kReboot:
        next_s = Reboot(now_s);
        break;
      case Phase::kAwaitReboot:
        next_s = AwaitReboot(now_s);
        break;
    }
    if (phase_ == before) return next_s;
  }
}

// Whether there is anything to do, and whether it can be done.
double MigManager::Consider(double now_s) {
  if (!std::exchange(look_, false)) return kNever;
  again_ = false;
  const std::string_view state = node_->Label(kMigStateLabel);
  wanted_ = node_->Label(kMigConfigLabel);
  if (wanted_.empty()) {
    // Who takes the label away during a change is owed an end, too.
    if (state == "pending") Conclude("failed", "the label was removed during the change");
    handled_.clear();
    return kNever;
  }
  if (state == "rebooting" && node_->Annotation(kMigBootAnnotation) == work_.BootId()) {
    // The reboot hasn't come: this program was ended by it, or before it could begin it.
    phase_ = Phase::kReboot;
    return now_s;
  }
  const Result<std::string> fingerprint = work_.Fingerprint(wanted_);
  if (!fingerprint) {
    fingerprint_ = ReasonOf(fingerprint.error());
  } else {
    fingerprint_ = *fingerprint;
  }
  const std::string key = fmt::format("{}\n{}", wanted_, fingerprint_);
  const bool ended = state == "success" || state == "failed";
  if (key == handled_) {
    // Where the state isn't ours, the watch lags behind, or somebody else wrote it: say it again.
    if (!ended) Conclude(state_, reason_);
    return kNever;
  }
  if (!fingerprint) {
    Conclude("failed", fingerprint_);
    return now_s;
  }
  const Result<int> steps = work_.Plan(wanted_);
  if (!steps) {
    again_ = steps.error().code == ErrorCode::kUnavailable;
    Conclude("failed", ReasonOf(steps.error()));
  } else if (*steps == 0) {
    Say(fmt::format("MIG configuration {} is in place", wanted_));
    Conclude("success", "");
  } else {
    Say(fmt::format("MIG configuration {}: {} steps", wanted_, *steps));
    phase_ = Phase::kBegin;
    told_ = false;
  }
  CrashPoint("kube-mig-planned");
  return now_s;
}

// Nothing is touched before the node says so.
double MigManager::Begin(double now_s) {
  NodePatch patch;
  patch.labels[std::string(kMigStateLabel)] = "pending";
  patch.annotations[std::string(kMigReasonAnnotation)] = std::nullopt;
  PauseClients(patch);
  const Result<NodeObject> node = PatchNode(patch);
  if (!node) {
    if (node.error().code == ErrorCode::kConflict) return now_s;
    if (!std::exchange(told_, true)) {
      Say("the node can't be labelled, so MIG isn't changed yet: " + ReasonOf(node.error()));
    }
    return now_s + options_.retry_s;
  }
  CrashPoint("kube-mig-pending");
  phase_ = Phase::kWait;
  until_s_ = now_s + options_.clients_s;
  return now_s;
}

double MigManager::WaitForClients(double now_s) {
  const std::vector<std::string> apps = PausedApps();
  if (apps.empty()) {
    CrashPoint("kube-mig-clients-gone");
    phase_ = Phase::kApply;
    return now_s;
  }
  const Result<std::vector<std::string>> pods = api_.PodsHere(options_.client_namespace, apps);
  if (pods && pods->empty()) {
    CrashPoint("kube-mig-clients-gone");
    phase_ = Phase::kApply;
    return now_s;
  }
  if (now_s < until_s_) return std::min(now_s + options_.look_s, until_s_);
  Conclude("failed",
           pods ? fmt::format("these pods didn't go within {:g} s: {}", options_.clients_s,
                              fmt::join(*pods, ", "))
                : fmt::format("for {:g} s it couldn't be seen whether the clients' pods are gone: "
                              "{}",
                              options_.clients_s, ReasonOf(pods.error())));
  return now_s;
}

double MigManager::Apply(double now_s) {
  const Result<MigWork::Outcome> outcome = work_.Apply(wanted_);
  changed_ = true;
  CrashPoint("kube-mig-applied");
  if (!outcome) {
    Conclude("failed", ReasonOf(outcome.error()));
  } else if (*outcome == MigWork::Outcome::kDone) {
    Conclude("success", "");
  } else if (!node_->Annotation(kMigBootAnnotation).empty() &&
             node_->Annotation(kMigBootAnnotation) != work_.BootId()) {
    Conclude("failed", "the MIG mode is pending even after a reboot");
  } else {
    Conclude("rebooting", "");
  }
  return now_s;
}

void MigManager::Conclude(std::string state, std::string reason) {
  state_ = std::move(state);
  reason_ = std::move(reason);
  if (state_ == "success") {
    if (const Status kept = work_.Keep(); !kept) Say(ReasonOf(kept.error()));
  } else if (state_ == "failed") {
    const Status undone = work_.TakeBack();
    if (!undone) reason_ += "; what was begun can't be undone: " + ReasonOf(undone.error());
  }
  reason_.resize(std::min(reason_.size(), kReasonMax));
  told_ = false;
  if (!reason_.empty() && reason_ != said_) {
    Say(fmt::format("MIG configuration {}: {}", wanted_, reason_));
  }
  said_ = reason_;
  phase_ = Phase::kSettle;
}

double MigManager::Settle(double now_s) {
  NodePatch patch;
  patch.labels[std::string(kMigStateLabel)] = state_;
  std::optional<std::string>& reason = patch.annotations[std::string(kMigReasonAnnotation)];
  if (!reason_.empty()) reason = reason_;
  std::optional<std::string>& boot = patch.annotations[std::string(kMigBootAnnotation)];
  // While a reboot is due, clients stay away; who comes after it brings them back.
  if (state_ == "rebooting") {
    boot = work_.BootId();
  } else {
    RestoreClients(patch);
  }
  const bool news = Patched(*node_, patch) != *node_;
  if (news) {
    const Result<NodeObject> node = PatchNode(patch);
    if (!node) {
      if (node.error().code == ErrorCode::kConflict) return now_s;
      if (!std::exchange(told_, true)) {
        Say(fmt::format("the node can't be labelled {} yet: {}", state_, ReasonOf(node.error())));
      }
      return now_s + options_.retry_s;
    }
  }
  CrashPoint("kube-mig-settled");
  handled_ = again_ ? "" : fmt::format("{}\n{}", wanted_, fingerprint_);
  if (state_ == "failed" && news) {
    // For people; the state is what counts, so one that is lost is no harm.
    static_cast<void>(api_.Tell({.warning = true, .reason = "MigChangeFailed", .message = reason_},
                                options_.utc != nullptr ? options_.utc() : ""));
  }
  if (state_ == "rebooting") {
    phase_ = Phase::kReboot;
    return now_s;
  }
  phase_ = Phase::kIdle;
  // The label may have changed meanwhile; the same one is handled, or looked at later.
  look_ = !again_ || node_->Label(kMigConfigLabel) != wanted_;
  return now_s;
}

double MigManager::Reboot(double now_s) {
  phase_ = Phase::kAwaitReboot;
  until_s_ = now_s + options_.reboot_s;
  if (const Status status = work_.Reboot(); !status) {
    Conclude("failed", "the reboot can't be begun: " + ReasonOf(status.error()));
  }
  return now_s;
}

double MigManager::AwaitReboot(double now_s) {
  if (now_s < until_s_) return until_s_;
  Conclude("failed", fmt::format("the reboot didn't come within {:g} s", options_.reboot_s));
  return now_s;
}

// Clients' labels are others', so the node must be as we know it; where it isn't, it is read again.
Result<NodeObject> MigManager::PatchNode(const NodePatch& patch) {
  NodePatch exact = patch;
  exact.resource_version = node_->resource_version;
  Result<NodeObject> node = api_.Patch(exact);
  if (node) {
    node_ = *node;
    return node;
  }
  if (node.error().code != ErrorCode::kConflict) return node;
  Result<NodeObject> now = api_.Read();
  if (!now) return now;
  node_ = *std::move(now);
  return node;
}

void MigManager::PauseClients(NodePatch& patch) const {
  for (const MigClient& client : MigClients()) {
    if (node_->Label(client.label) == kRun) {
      patch.labels[std::string(client.label)] = std::string(kMigPaused);
    }
  }
}

void MigManager::RestoreClients(NodePatch& patch) const {
  for (const MigClient& client : MigClients()) {
    if (node_->Label(client.label) == kMigPaused) {
      patch.labels[std::string(client.label)] = std::string(kRun);
    }
  }
}

std::vector<std::string> MigManager::PausedApps() const {
  std::vector<std::string> apps;
  for (const MigClient& client : MigClients()) {
    if (node_->Label(client.label) == kMigPaused) apps.emplace_back(client.app);
  }
  return apps;
}

}  // namespace sublet
