#include "card_meters.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <memory>

#include "card_host.h"

namespace sublet::sim {
namespace {

// The file of the cards; not valid where it is missing or another version's.
class CardsFile {
 public:
  explicit CardsFile(const std::string& path)
      : file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)) {
    std::uint32_t head[2] = {};
    valid_ = file_ >= 0 && Get(0, head) && head[0] == kCardsMagic && head[1] == sizeof(CardTable);
  }
  ~CardsFile() {
    if (file_ >= 0) ::close(file_);
  }
  CardsFile(const CardsFile&) = delete;
  CardsFile& operator=(const CardsFile&) = delete;

  bool valid() const { return valid_; }

  template <typename T>
  bool Get(std::size_t offset, T& out) const {
    const ssize_t count = ::pread(file_, &out, sizeof out, static_cast<off_t>(offset));
    return count == static_cast<ssize_t>(sizeof out);
  }

 private:
  const int file_;
  bool valid_ = false;
};

template <typename T>
T Field(const CardsFile& file, std::size_t offset) {
  T value{};
  file.Get(offset, value);
  return value;
}

// What stands in front of a process's streams, where all that is asked for is.
class ProcessHead {
 public:
  ProcessHead(const CardsFile& file, std::size_t index) {
    file.Get(offsetof(CardTable, processes) + index * sizeof(CardProcess), bytes_);
  }

  template <typename T>
  T Field(std::size_t offset) const {
    T value{};
    std::memcpy(&value, &bytes_[offset], sizeof value);
    return value;
  }

  // Its context on the GPU; one that isn't `used` where it has none.
  CardContext ContextOn(int gpu) const {
    for (std::size_t i = 0; i < kCardContextsMax; ++i) {
      const auto context =
          Field<CardContext>(offsetof(CardProcess, contexts) + i * sizeof(CardContext));
      if (context.used && context.gpu == gpu) return context;
    }
    return {};
  }

 private:
  std::byte bytes_[offsetof(CardProcess, streams)] = {};
};

}  // namespace

MeterReading CardMeters::Read(const SimGpu& gpu) const {
  const PowerFigures figures = PowerOf(gpu);
  MeterReading reading{.power_w = figures.idle_w, .limit_w = figures.busy_w};
  const CardsFile file(path_);
  if (!file.valid()) return reading;
  const std::size_t at =
      offsetof(CardTable, gpus) + static_cast<std::size_t>(gpu.facts.index) * sizeof(CardGpu);
  reading.power_w = Field<double>(file, at + offsetof(CardGpu, power_w));
  reading.energy_mj = Field<double>(file, at + offsetof(CardGpu, energy_mj));
  reading.is_busy = Field<bool>(file, at + offsetof(CardGpu, is_busy));
  reading.bus_in = Field<double>(file, at + offsetof(CardGpu, bus_in));
  reading.bus_out = Field<double>(file, at + offsetof(CardGpu, bus_out));
  return reading;
}

ProcessReading CardMeters::Processes(int gpu) const {
  ProcessReading reading;
  const CardsFile file(path_);
  if (!file.valid()) return reading;
  reading.now_ns = Field<std::int64_t>(file, offsetof(CardTable, now_ns));
  const std::size_t facts_at = offsetof(CardTable, gpus) +
                               static_cast<std::size_t>(gpu) * sizeof(CardGpu) +
                               offsetof(CardGpu, partitions) + offsetof(CardPartition, facts);
  reading.sm_count = Field<CardFacts>(file, facts_at).sm_count;
  std::uint64_t used[kCardProcessesMax / 64] = {};
  file.Get(offsetof(CardTable, used_processes), used);
  for (std::size_t i = 0; i < kCardProcessesMax; ++i) {
    if ((used[i / 64] >> i % 64 & 1) == 0) continue;
    const ProcessHead process(file, i);
    const CardContext context = process.ContextOn(gpu);
    if (!context.used) continue;
    reading.processes.push_back(
        {.pid = process.Field<std::int32_t>(offsetof(CardProcess, pid)),
         .server_pid = context.server_pid,
         .begun_ns = process.Field<std::int64_t>(offsetof(CardProcess, begun_ns)),
         .sm_ns = process.Field<double>(offsetof(CardProcess, sm_ns))});
  }
  return reading;
}

}  // namespace sublet::sim
