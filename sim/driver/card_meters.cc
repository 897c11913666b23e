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

std::vector<ProcessMeter> CardMeters::Processes(int gpu, long long& now_ns) const {
  std::vector<ProcessMeter> meters;
  const CardsFile file(path_);
  if (!file.valid()) return meters;
  now_ns = Field<std::int64_t>(file, offsetof(CardTable, now_ns));
  const std::size_t facts_at = offsetof(CardTable, gpus) +
                               static_cast<std::size_t>(gpu) * sizeof(CardGpu) +
                               offsetof(CardGpu, partitions) + offsetof(CardPartition, facts);
  const CardFacts facts = Field<CardFacts>(file, facts_at);
  for (std::size_t i = 0; i < kCardProcessesMax; ++i) {
    const auto bits = Field<std::uint64_t>(
        file, offsetof(CardTable, used_processes) + i / 64 * sizeof(std::uint64_t));
    if ((bits >> i % 64 & 1) == 0) continue;
    const std::size_t at = offsetof(CardTable, processes) + i * sizeof(CardProcess);
    bool here = false;
    for (std::size_t c = 0; c < kCardContextsMax; ++c) {
      const auto context =
          Field<CardContext>(file, at + offsetof(CardProcess, contexts) + c * sizeof(CardContext));
      here = here || (context.used && context.gpu == gpu);
    }
    if (!here) continue;
    const auto begun = Field<std::int64_t>(file, at + offsetof(CardProcess, begun_ns));
    const auto sm_ns = Field<double>(file, at + offsetof(CardProcess, sm_ns));
    const double lived = static_cast<double>(std::max<long long>(now_ns - begun, 1));
    meters.push_back({Field<std::int32_t>(file, at + offsetof(CardProcess, pid)),
                      std::min(1.0, sm_ns / (lived * facts.sm_count))});
  }
  return meters;
}

}  // namespace sublet::sim
