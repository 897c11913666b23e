// kube/pod_meter.h
//
// A look at the node for the metrics of its pods: kubelet's list, the driver's processes and
// clocks, the cgroup of each process. And the same kept, for whoever must not wait.
//
//   PodMeter meter(options);
//   const std::shared_ptr<const PodSight> sight = meter.Look();      // Blocks.
//
//   PodWatch watch(loop, threads, options);
//   sight = co_await watch.Look();   // At most patience_s; the one before where it takes longer.
//
// One look runs at a time: a driver that hangs holds one thread, whoever asks.
//
// Thread safety: PodMeter one thread at a time; PodWatch the loop's.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "http/event_loop.h"
#include "inventory/nvml_library.h"
#include "kube/pod_usage.h"
#include "node/bell.h"

namespace sublet {

struct PodMeterOptions {
  std::string nvml;
  std::string pod_resources_socket;
  std::string pod_logs = std::string(kPodLogs);
  std::string proc = "/proc";
  double kubelet_timeout_s = 1;
};

// What of a GPU isn't a process's; absent where the driver doesn't tell.
struct GpuMeters {
  std::optional<unsigned> sm_clock_mhz;
  std::optional<double> power_watts;
  std::optional<unsigned> temperature;
  std::optional<unsigned long long> throttle_reasons;  // NVML's bits.
};

struct PodSight {
  std::string driver_problem;                   // Empty: the driver answered.
  std::string kubelet_problem;                  // Empty: pods is whole.
  std::optional<std::vector<PodDevices>> pods;  // Absent where kubelet didn't answer.
  UsageSample usage;
  std::map<std::string, GpuMeters> meters;  // By UUID.
  std::map<int, ProcessPlace> places;
  PodNames names;
  double seconds = 0;  // That the look took.
  Moment at;           // When it ended.
};

class PodMeter {
 public:
  explicit PodMeter(PodMeterOptions options) : options_(std::move(options)) {}
  std::shared_ptr<const PodSight> Look();

 private:
  void AskDriver(PodSight& sight);
  ProcessPlace PlaceOf(int pid) const;

  const PodMeterOptions options_;
  std::optional<NvmlLibrary> nvml_;  // Opened anew after the driver failed.
  UsageCursor cursor_;
};

class PodWatch : public std::enable_shared_from_this<PodWatch> {
 public:
  PodWatch(asio::io_context& loop, asio::thread_pool& threads, PodMeterOptions options,
           double patience_s = 3);

  // Null where no look has ever come to its end.
  Task<std::shared_ptr<const PodSight>> Look();
  // The looks that weren't over in time.
  int late() const { return late_; }

 private:
  Task<void> LookNow();

  asio::io_context& loop_;
  asio::thread_pool& threads_;
  const double patience_s_;
  const std::shared_ptr<PodMeter> meter_;
  std::shared_ptr<const PodSight> last_;
  Broadcast done_;
  bool looking_ = false;
  int late_ = 0;
};

}  // namespace sublet
