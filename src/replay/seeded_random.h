// replay/seeded_random.h
//
// Numbers drawn from a seed, the same on every machine and with every standard library, which
// std::exponential_distribution and its like don't promise.
//
//   SeededRandom random(seed);
//   at_s += random.Exponential(1 / rate);
//   const ZipfRanks documents(2000, 1.0);
//   const std::uint32_t document = documents.Draw(random);
//
// Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014
// (SplitMix64).
//
// Thread safety: a SeededRandom is its owner's; drawing from ZipfRanks changes only the former.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace sublet {

class SeededRandom {
 public:
  explicit SeededRandom(std::uint64_t seed) : state_(seed) {}

  std::uint64_t Next();
  double Uniform();                        // In [0, 1).
  std::uint32_t Below(std::uint32_t end);  // REQUIRES: end > 0.
  double Exponential(double mean);
  // Somewhere between half and one and a half of `mean`, at least 1.
  std::uint32_t Around(double mean);

  template <typename T>
  void Shuffle(std::span<T> items) {
    for (std::size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[Below(static_cast<std::uint32_t>(i))]);
    }
  }

 private:
  std::uint64_t state_;
};

// Ranks from 0 on, of which rank r is drawn in proportion to 1 / (r + 1)^exponent.
class ZipfRanks {
 public:
  ZipfRanks(std::uint32_t count, double exponent);  // REQUIRES: count > 0.
  std::uint32_t Draw(SeededRandom& random) const;

 private:
  std::vector<double> cumulated_;
};

}  // namespace sublet
