// sim/driver/card_meters.h
//
// What the meters of the simulated cards read: for the look-alike of NVML, which only looks.
//
//   const CardMeters meters(CardsPath(folder, node));
//   meters.Read(gpu, reading);        // reading.energy_mj, ...
//
// Reads the file of the shared cards without mapping or locking it, so that a program that watches
// holds nobody up. A figure that changes meanwhile is the old or the new one. As long as no process
// has used CUDA there is no file, and the meters show a card at rest.
//
// Thread safety: any thread.
#pragma once

#include <string>
#include <vector>

#include "sim_node.h"

namespace sublet::sim {

struct MeterReading {
  double power_w = 0;
  double limit_w = 0;
  double energy_mj = 0;  // Since the node was first used.
  bool is_busy = false;  // A kernel runs now.
  double bus_in = 0;     // Bytes a nanosecond, now.
  double bus_out = 0;
};

struct ProcessMeter {
  int pid = 0;
  int server_pid = 0;      // Of an MPS client's server; 0 without MPS.
  long long begun_ns = 0;  // When it first used a card.
  double sm_ns = 0;        // SM time of its kernels since then.
};

struct ProcessReading {
  long long now_ns = 0;  // The simulated clock.
  int sm_count = 0;      // Of the GPU.
  std::vector<ProcessMeter> processes;
};

class CardMeters {
 public:
  explicit CardMeters(std::string path) : path_(std::move(path)) {}

  MeterReading Read(const SimGpu& gpu) const;
  // Of the processes that have a context on the GPU.
  ProcessReading Processes(int gpu) const;

 private:
  const std::string path_;
};

}  // namespace sublet::sim
