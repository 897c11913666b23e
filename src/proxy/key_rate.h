// proxy/key_rate.h
//
// How much a key may ask: so much a minute, evenly, with room for a burst.
//
//   KeyRate requests(600);                                   // A minute.
//   const std::int64_t wait_ns = requests.Take(1, now_ns);   // 0: it may.
//
// Ten seconds' worth may come at once. What is larger than that by itself (a long prompt, in
// tokens) is let through as soon as the rest is paid, and is then paid for by waiting.
//
// Source: the generic cell rate algorithm (ITU-T I.371), whose state is one number.
//
// Thread safety: any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace sublet {

class KeyRate {
 public:
  // REQUIRES: positive.
  explicit KeyRate(double a_minute)
      : ns_each_(60e9 / a_minute), burst_ns_(ns_each_ > kBurstNs ? 0 : kBurstNs - ns_each_) {}

  // 0: taken. Otherwise nothing is, and it is worth asking again after so many nanoseconds.
  std::int64_t Take(double amount, std::int64_t now_ns) {
    std::int64_t paid_until_ns = paid_until_ns_.load(std::memory_order_relaxed);
    while (true) {
      const auto late_ns = static_cast<double>(paid_until_ns - now_ns);
      if (late_ns > burst_ns_) return static_cast<std::int64_t>(late_ns - burst_ns_);
      const std::int64_t from_ns = paid_until_ns > now_ns ? paid_until_ns : now_ns;
      const std::int64_t next_ns = from_ns + static_cast<std::int64_t>(amount * ns_each_);
      if (paid_until_ns_.compare_exchange_weak(paid_until_ns, next_ns, std::memory_order_relaxed)) {
        return 0;
      }
    }
  }

 private:
  static constexpr double kBurstNs = 10e9;
  const double ns_each_;
  const double burst_ns_;
  std::atomic<std::int64_t> paid_until_ns_ = INT64_MIN / 2;
};

// Of one key; null: as much as it likes.
struct KeyRates {
  std::unique_ptr<KeyRate> requests;
  std::unique_ptr<KeyRate> tokens;  // Of prompts.
};

}  // namespace sublet
