// node/health_watch.h
//
// The thread that listens to the driver: XID events as they come, and every few seconds a look at
// each GPU. What it sees goes to a callback; what follows from it is node/gpu_health.h's.
//
//   HealthWatch watch({.nvml_path = path, .report = [&](HealthSighting seen) {
//     asio::post(loop, [seen = std::move(seen)] { ... });
//   }});
//   ...
//   watch.Stop();
//
// It has NVML open for itself. A driver that goes (a reset, an upgrade) is closed and opened again,
// every `reopen_s` until it is back; whoever else has NVML open must close it too at a kNoAnswer
// without a GPU, or the process keeps the old library. The driver can't be woken from a wait, so
// the thread waits in pieces of `wait_s`, which is also how long Stop() may take. A call
// into the driver that never comes back holds the thread for good: Stop() then gives it up after
// `give_up_s` and goes on; its callback is never called again. Whoever cares sees the same in
// SecondsSinceAnswer().
//
// Thread safety: the callback runs in the watch's thread and must not call Stop(). All else from
// one thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node/gpu_health.h"

namespace sublet {

struct HealthSighting {
  // xid: an event; without a GPU where the driver doesn't say which, and then it may be any.
  // polled: a look at a GPU that was answered. no-answer: one that wasn't; without a GPU, the whole
  // driver, told at each try. found: NVML is open (again), before the first polls; without a GPU.
  enum class What { kXid, kPolled, kNoAnswer, kFound };
  What what = What::kPolled;
  std::string gpu_uuid = {};
  int xid = 0;                           // kXid
  int count = 1;                         // kXid: so many of the same at once.
  std::optional<int> gpu_instance = {};  // kXid under MIG
  GpuFacts facts = {};                   // kPolled
  // kPolled, where the options ask for it: the UUIDs of its MIG devices, as the driver numbers
  // them.
  std::optional<std::vector<std::string>> mig_devices = {};
  std::string message = {};  // kNoAnswer: what the driver said.
};

struct HealthWatchOptions {
  std::string nvml_path = {};                              // What NvmlLibrary::Open takes.
  std::function<void(const HealthSighting&)> report = {};  // Called from the watch's thread.
  bool tell_mig = false;
  double poll_s = 5;
  double wait_s = 0.5;
  double reopen_s = 5;
  double give_up_s = 3;
};

class HealthWatch {
 public:
  explicit HealthWatch(HealthWatchOptions options);
  ~HealthWatch();  // Stop()
  HealthWatch(const HealthWatch&) = delete;
  HealthWatch& operator=(const HealthWatch&) = delete;

  // After it the callback isn't called any more. Twice is fine.
  void Stop();
  // Polls at once instead of after poll_s, within wait_s.
  void PollSoon();
  // Since the driver last came back from a call. Large while one hangs.
  double SecondsSinceAnswer() const;

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace sublet
