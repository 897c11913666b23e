// NVML's functions about what a GPU draws, how fast it runs and how busy its processes keep it.
#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "card_host.h"
#include "card_meters.h"
#include "driver.h"

namespace sublet::sim {

using namespace nvml;

namespace {

MeterReading ReadMeters(Driver& driver, const Target& target) {
  return CardMeters(CardsPath(driver.folder(), driver.node())).Read(driver.gpu(target));
}

template <typename T, typename Figure>
Return Metered(const char* function, Device device, T* out, const Figure& figure) {
  return CallOnGpu(function, device, [&](Driver& driver, const Target& target) {
    return Put(figure(ReadMeters(driver, target)), out);
  });
}

// The clock that kernel_costs.h assumes for every board, and an H200's memory clock.
Return Clock(const char* function, Device device, unsigned type, unsigned* mhz) {
  constexpr unsigned kSmMhz = 1980;
  constexpr unsigned kMemoryMhz = 3201;
  constexpr unsigned kVideo = 3;
  return CallOnGpu(function, device, [&](Driver&, const Target&) {
    if (type > kVideo) return kInvalidArgument;
    return Put(type == kClockMemory ? kMemoryMhz : kSmMhz, mhz);
  });
}

// The clocks are never held back; a card without work is said to be idle.
Return ClockReasons(const char* function, Device device, unsigned long long* reasons) {
  constexpr unsigned long long kIdle = 1;
  return Metered(function, device, reasons,
                 [](const MeterReading& reading) { return reading.is_busy ? 0 : kIdle; });
}

// What this process read when it last asked, so that the next answer is about the time since then.
class LastReadings {
 public:
  // Samples of the time since `seen_us`, where that is when the last answer was given; otherwise of
  // all the time since a process began. What the clients of an MPS server do is the server's.
  std::vector<ProcessUtilizationSample> Since(int gpu, unsigned long long seen_us,
                                              ProcessReading reading) {
    const std::lock_guard lock(mutex_);
    ProcessReading& last = by_gpu_[gpu];
    const unsigned long long now_us = Microseconds(reading.now_ns);
    const bool continued = seen_us != 0 && seen_us == Microseconds(last.now_ns);
    std::map<int, double> parts;  // Of the SM time, by pid.
    for (const ProcessMeter& now : reading.processes) {
      double sm_ns = now.sm_ns;
      long long from_ns = now.begun_ns;
      for (const ProcessMeter& before : last.processes) {
        if (!continued || before.pid != now.pid || before.begun_ns != now.begun_ns) continue;
        sm_ns -= before.sm_ns;
        from_ns = last.now_ns;
      }
      const auto time_ns = static_cast<double>(std::max<long long>(reading.now_ns - from_ns, 1));
      parts[now.server_pid != 0 ? now.server_pid : now.pid] += sm_ns / (time_ns * reading.sm_count);
    }
    last = std::move(reading);
    std::vector<ProcessUtilizationSample> samples;
    if (now_us <= seen_us) return samples;  // The cards' clock stands still.
    for (const auto& [pid, part] : parts) {
      samples.push_back({static_cast<unsigned>(pid), now_us,
                         static_cast<unsigned>(std::lround(100 * std::min(1.0, part))), 0, 0, 0});
    }
    return samples;
  }

 private:
  static unsigned long long Microseconds(long long ns) {
    return static_cast<unsigned long long>(ns / 1000);
  }

  std::mutex mutex_;
  std::map<int, ProcessReading> by_gpu_;
};

}  // namespace

SIM_EXPORT Return nvmlDeviceGetTotalEnergyConsumption(Device device, unsigned long long* energy) {
  return Metered(__func__, device, energy,
                 [](const MeterReading& reading) { return reading.energy_mj; });
}

SIM_EXPORT Return nvmlDeviceGetPowerUsage(Device device, unsigned* milliwatts) {
  return Metered(__func__, device, milliwatts,
                 [](const MeterReading& reading) { return reading.power_w * 1000; });
}

SIM_EXPORT Return nvmlDeviceGetEnforcedPowerLimit(Device device, unsigned* milliwatts) {
  return Metered(__func__, device, milliwatts,
                 [](const MeterReading& reading) { return reading.limit_w * 1000; });
}

// 30 degrees at rest, 70 at full power, without the minutes that warming up takes.
SIM_EXPORT Return nvmlDeviceGetTemperature(Device device, unsigned sensor, unsigned* celsius) {
  if (sensor != kTemperatureGpu) return kInvalidArgument;
  return Metered(__func__, device, celsius, [](const MeterReading& reading) {
    return std::lround(30 + 40 * reading.power_w / reading.limit_w);
  });
}

SIM_EXPORT Return nvmlDeviceGetClockInfo(Device device, unsigned type, unsigned* mhz) {
  return Clock(__func__, device, type, mhz);
}

SIM_EXPORT Return nvmlDeviceGetMaxClockInfo(Device device, unsigned type, unsigned* mhz) {
  return Clock(__func__, device, type, mhz);
}

SIM_EXPORT Return nvmlDeviceGetCurrentClocksEventReasons(Device device,
                                                         unsigned long long* reasons) {
  return ClockReasons(__func__, device, reasons);
}

SIM_EXPORT Return nvmlDeviceGetCurrentClocksThrottleReasons(Device device,
                                                            unsigned long long* reasons) {
  return ClockReasons(__func__, device, reasons);
}

// In KB a second; what is sent is what goes to the host.
SIM_EXPORT Return nvmlDeviceGetPcieThroughput(Device device, unsigned counter, unsigned* rate) {
  constexpr unsigned kReceived = 1;
  if (counter > kReceived) return kInvalidArgument;
  return Metered(__func__, device, rate, [&](const MeterReading& reading) {
    return (counter == kReceived ? reading.bus_in : reading.bus_out) * 1e6;
  });
}

// One sample for each process; kNotFound where nothing new was measured.
SIM_EXPORT Return nvmlDeviceGetProcessUtilization(Device device, ProcessUtilizationSample* samples,
                                                  unsigned* count, unsigned long long seen_us) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    static LastReadings last_readings;
    const CardMeters meters(CardsPath(driver.folder(), driver.node()));
    if (count == nullptr) return kInvalidArgument;
    if (samples == nullptr) *count = 0;  // Asks how much room it takes.
    ProcessReading reading = meters.Processes(target.gpu);
    if (*count < reading.processes.size()) {
      *count = static_cast<unsigned>(reading.processes.size());
      return kInsufficientSize;
    }
    const auto list = last_readings.Since(target.gpu, seen_us, std::move(reading));
    return list.empty() ? kNotFound : PutList(list, count, samples);
  });
}

}  // namespace sublet::sim
