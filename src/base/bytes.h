// base/bytes.h
//
// Amounts of memory, kept apart from other integers.
//
//   ASSIGN_OR_RETURN(Bytes limit, ParseBytes("20GiB"));
//   limit + 512_MiB
//   FormatBytes(limit)   // "20.0 GiB"
//   limit.mib()          // 20480, rounded down
//
// GPU tools count in MiB (NVML, nvidia-smi, MPS limits); vendors' data sheets in GB of 10^9. Both
// are read; what is printed is always binary and says so.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sublet {

struct Bytes {
  std::int64_t count = 0;

  static constexpr Bytes FromMib(std::int64_t mib) { return {mib << 20}; }
  constexpr std::int64_t mib() const { return count >> 20; }
  // What a limit must be set to so that `count` fits.
  constexpr std::int64_t mib_rounded_up() const { return (count + (1 << 20) - 1) >> 20; }
  constexpr double gib() const { return static_cast<double>(count) / (1 << 30); }

  friend constexpr auto operator<=>(Bytes, Bytes) = default;
  friend constexpr Bytes operator+(Bytes a, Bytes b) { return {a.count + b.count}; }
  friend constexpr Bytes operator-(Bytes a, Bytes b) { return {a.count - b.count}; }
  friend constexpr Bytes operator*(Bytes a, std::int64_t n) { return {a.count * n}; }
  Bytes& operator+=(Bytes other) { return count += other.count, *this; }
  Bytes& operator-=(Bytes other) { return count -= other.count, *this; }
};

constexpr Bytes operator""_MiB(unsigned long long n) {
  return Bytes::FromMib(static_cast<std::int64_t>(n));
}
constexpr Bytes operator""_GiB(unsigned long long n) {
  return Bytes::FromMib(static_cast<std::int64_t>(n) << 10);
}

// Reads "20GiB", "512 MiB", "1.5Gi", "16GB", "1048576" (bytes). Units: B, K/M/G/T with "i", "iB"
// (binary) or "B" (decimal). Fails with kInvalid on anything else, negative amounts and amounts of
// 2^60 bytes and more.
Result<Bytes> ParseBytes(std::string_view text);

// "20.0 GiB", "512 MiB", "17 B": one decimal from GiB upwards.
std::string FormatBytes(Bytes bytes);

}  // namespace sublet
