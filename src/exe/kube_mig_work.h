// exe/kube_mig_work.h
//
// MIG of this machine for kube/mig_manager.h: a mig-parted file's labels, laid out by plan/, done
// by mig/.
//
// A driver that hangs in a change is given up after a while: then the change has failed, and so do
// all others until the driver answers. When it does, the steps are taken back.
//
// Thread safety: one thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kube/mig_manager.h"

namespace sublet {

struct KubeMigOptions {
  std::string config;  // The mig-parted file.
  std::string nvml;
  double timeout_s = 60;  // For a look at the node.
  double change_s = 600;  // For a change: 16 GPUs, each in use for a moment longer.
  // Where a change that has begun is remembered; empty: nowhere.
  std::string state_folder;
  bool may_reboot = false;
  // What reboots; empty: systemd is asked to, as the host's process 1.
  std::vector<std::string> reboot_command;
};

class KubeMigWork final : public MigWork {
 public:
  explicit KubeMigWork(KubeMigOptions options);
  ~KubeMigWork() override;

  Result<int> Plan(std::string_view label) override;
  Result<std::string> Fingerprint(std::string_view label) override;
  Result<Outcome> Apply(std::string_view label) override;
  Status Keep() override;
  Status TakeBack() override;
  Status Reboot() override;
  std::string BootId() override;

 private:
  // What a thread needs that may outlive its caller's patience.
  class Changer;

  template <typename T>
  Result<T> InTime(std::function<Result<T>(Changer&)> work);

  KubeMigOptions options_;
  std::shared_ptr<Changer> changer_;
};

}  // namespace sublet
