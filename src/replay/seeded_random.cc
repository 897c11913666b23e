#include "replay/seeded_random.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace sublet {

std::uint64_t SeededRandom::Next() {
  state_ += 0x9E3779B97F4A7C15u;
  std::uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

double SeededRandom::Uniform() {
  return static_cast<double>(Next() >> 11) * 0x1p-53;
}

std::uint32_t SeededRandom::Below(std::uint32_t end) {
  CHECK(end > 0);
  // The bias of at most 2^-32 is nothing beside what a generator leaves out.
  return static_cast<std::uint32_t>(((Next() >> 32) * end) >> 32);
}

double SeededRandom::Exponential(double mean) {
  return -mean * std::log1p(-Uniform());
}

std::uint32_t SeededRandom::Around(double mean) {
  return static_cast<std::uint32_t>(std::max(1.0, mean * (0.5 + Uniform())));
}

ZipfRanks::ZipfRanks(std::uint32_t count, double exponent) {
  CHECK(count > 0);
  double sum = 0;
  cumulated_.reserve(count);
  for (std::uint32_t rank = 0; rank < count; ++rank) {
    sum += std::pow(rank + 1.0, -exponent);
    cumulated_.push_back(sum);
  }
}

std::uint32_t ZipfRanks::Draw(SeededRandom& random) const {
  const double at = random.Uniform() * cumulated_.back();
  const auto it = std::ranges::upper_bound(cumulated_, at);
  const auto rank = std::min<std::ptrdiff_t>(it - cumulated_.begin(), std::ssize(cumulated_) - 1);
  return static_cast<std::uint32_t>(rank);
}

}  // namespace sublet
