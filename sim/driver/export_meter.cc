// NVML's functions about what a GPU draws, how fast it runs and how busy its processes keep it.
#include <cmath>
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

// nvmlProcessUtilizationSample_t
struct UtilizationSample {
  unsigned pid;
  unsigned long long time_us;
  unsigned sm;
  unsigned memory;
  unsigned encoder;
  unsigned decoder;
};
static_assert(sizeof(UtilizationSample) == 32 && offsetof(UtilizationSample, sm) == 16);

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

// One sample for each process, of all the time since it started.
SIM_EXPORT Return nvmlDeviceGetProcessUtilization(Device device, UtilizationSample* samples,
                                                  unsigned* count, unsigned long long) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    long long now_ns = 0;
    const CardMeters meters(CardsPath(driver.folder(), driver.node()));
    std::vector<UtilizationSample> list;
    for (const ProcessMeter& one : meters.Processes(target.gpu, now_ns)) {
      list.push_back({static_cast<unsigned>(one.pid),
                      static_cast<unsigned long long>(now_ns / 1000),
                      static_cast<unsigned>(std::lround(one.sm_part * 100)), 0, 0, 0});
    }
    return PutList(list, count, samples);
  });
}

}  // namespace sublet::sim
