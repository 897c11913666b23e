#include "kube/pod_meter.h"

#include <fmt/format.h>

#include <boost/asio/co_spawn.hpp>
#include <utility>

#include "base/files.h"

namespace sublet {
namespace {

constexpr std::size_t kCgroupBytesMax = 64u << 10;
constexpr std::size_t kNameBytesMax = 64;

GpuMeters ReadMeters(const nvml::Api& api, nvml::Device device) {
  GpuMeters meters;
  unsigned value = 0;
  if (api.device_clock != nullptr &&
      api.device_clock(device, nvml::kClockSm, &value) == nvml::kSuccess) {
    meters.sm_clock_mhz = value;
  }
  if (api.device_power != nullptr && api.device_power(device, &value) == nvml::kSuccess) {
    meters.power_watts = value / 1000.0;
  }
  if (api.device_temperature != nullptr &&
      api.device_temperature(device, nvml::kTemperatureGpu, &value) == nvml::kSuccess) {
    meters.temperature = value;
  }
  // The second is the first's name in drivers before r535.
  for (const auto read : {api.device_clock_reasons, api.device_throttle_reasons}) {
    unsigned long long reasons = 0;
    if (read == nullptr || read(device, &reasons) != nvml::kSuccess) continue;
    meters.throttle_reasons = reasons;
    break;
  }
  return meters;
}

}  // namespace

void PodMeter::AskDriver(PodSight& sight) {
  if (!nvml_) {
    Result<NvmlLibrary> opened = NvmlLibrary::Open(options_.nvml);
    if (!opened) {
      sight.driver_problem = opened.error().message;
      return;
    }
    nvml_.emplace(std::move(*opened));
  }
  Result<UsageSample> usage = SampleUsage(nvml_->api(), cursor_);
  if (!usage) {
    sight.driver_problem = usage.error().message;
    nvml_.reset();
    return;
  }
  sight.usage = std::move(*usage);
  for (const GpuUsage& gpu : sight.usage.gpus) {
    nvml::Device device = nullptr;
    if (!gpu.problem.empty()) continue;
    const auto index = static_cast<unsigned>(gpu.index);
    if (nvml_->api().device_by_index(index, &device) != nvml::kSuccess) continue;
    sight.meters.emplace(gpu.uuid, ReadMeters(nvml_->api(), device));
  }
}

ProcessPlace PodMeter::PlaceOf(int pid) const {
  ProcessPlace place;
  const std::string folder = fmt::format("{}/{}", options_.proc, pid);
  place.pod_uid = PodUidOfCgroup(ReadFile(folder + "/cgroup", kCgroupBytesMax).value_or(""));
  // The kernel keeps 15 bytes of nvidia-cuda-mps-server and -control.
  place.mps_server =
      ReadFile(folder + "/comm", kNameBytesMax).value_or("").starts_with("nvidia-cuda-mps");
  return place;
}

std::shared_ptr<const PodSight> PodMeter::Look() {
  const Moment begin = Clock();
  auto sight = std::make_shared<PodSight>();
  AskDriver(*sight);
  // After the processes, so that a pod whose process is listed is known.
  Result<std::vector<PodDevices>> pods =
      ListPodDevices(options_.pod_resources_socket, options_.kubelet_timeout_s);
  if (pods) {
    sight->pods = std::move(*pods);
  } else {
    sight->kubelet_problem = pods.error().message;
  }
  for (const GpuUsage& gpu : sight->usage.gpus) {
    for (const ProcessUsage& process : gpu.processes) {
      if (sight->places.contains(process.pid)) continue;
      sight->places.emplace(process.pid, PlaceOf(process.pid));
    }
  }
  sight->names = ReadPodNames(options_.pod_logs);
  sight->at = Clock();
  sight->seconds = SecondsSince(begin);
  return sight;
}

PodWatch::PodWatch(asio::io_context& loop, asio::thread_pool& threads, PodMeterOptions options,
                   double patience_s)
    : loop_(loop),
      threads_(threads),
      patience_s_(patience_s),
      meter_(std::make_shared<PodMeter>(std::move(options))),
      done_(loop) {}

Task<void> PodWatch::LookNow() {
  const auto self = shared_from_this();
  auto look = [meter = meter_] { return meter->Look(); };
  last_ = co_await OnPool(threads_, look);
  looking_ = false;
  done_.Announce();
}

Task<std::shared_ptr<const PodSight>> PodWatch::Look() {
  const auto self = shared_from_this();
  if (!std::exchange(looking_, true)) asio::co_spawn(loop_, LookNow(), EndsTheProgram);
  const Moment until = MomentIn(patience_s_);
  const auto before = last_;
  co_await done_.Next(until);
  if (last_ == before) ++late_;
  co_return last_;
}

}  // namespace sublet
