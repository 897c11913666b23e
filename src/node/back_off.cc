#include "node/back_off.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace sublet {
namespace {

constexpr double kSpread = 0.25;  // The part of a pause that differs from share to share.

// FNV-1a, and the mixing that it lacks in its high bits (the finaliser of MurmurHash3): the same
// number on every machine, from 0 up to and without 1.
double Fraction(std::string_view share, int attempt) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](unsigned char byte) { hash = (hash ^ byte) * 0x100000001b3u; };
  for (const char c : share) add(static_cast<unsigned char>(c));
  add(static_cast<unsigned char>(attempt));
  hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccdu;
  hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53u;
  hash ^= hash >> 33;
  return static_cast<double>(hash >> 11) * 0x1p-53;
}

}  // namespace

int AttemptsAfterEnd(int attempts, double ran_s, const BackOff& back_off) {
  return ran_s >= back_off.steady_s ? 1 : attempts + 1;
}

double RestartDelay(int attempts, std::string_view share, const BackOff& back_off) {
  if (attempts <= 0) return 0;
  // Enough doublings to reach any limit, and few enough not to overflow.
  const double doubled = std::ldexp(back_off.first_s, std::min(attempts - 1, 64));
  return std::min(doubled, back_off.most_s) * (1 - kSpread * Fraction(share, attempts));
}

bool IsCrashLoop(int attempts, const BackOff& back_off) {
  return attempts >= back_off.loop_attempts;
}

std::string DescribePause(int attempts, double delay_s, const BackOff& back_off) {
  const std::string next = delay_s < 10 ? fmt::format("starts again in {:.1f} s", delay_s)
                                        : fmt::format("starts again in {:.0f} s", delay_s);
  if (!IsCrashLoop(attempts, back_off)) return next;
  return fmt::format("crash loop: ended {} times in a row, each within {:g} s of its start; {}",
                     attempts, back_off.steady_s, next);
}

}  // namespace sublet
