// guard/hooks.h
//
// A wrapper around a driver function, whichever of its variants that is.
//
// One function of the driver has several addresses: by version, by default stream, as exported and
// as cuGetProcAddress hands it out. A program that asked for one must get that one, so a wrapper is
// made for each address that the driver returned, never for a name:
//
//   using LaunchHook = Hook<CountLaunch, int(void*, void*)>;
//   function = LaunchHook::Wrap(function);   // Calls CountLaunch::Around(function, a, b).
//
// Wrappers are made when the library is compiled, kPlaces for each Hook, and are handed out as
// addresses turn up; when they are used up, or the address is a wrapper, it comes back as it is.
//
// Thread safety: any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <utility>

#include "guard/real_symbols.h"

namespace sublet::guard {

template <typename Policy, typename Signature>
class Hook;

template <typename Policy, typename... Arguments>
class Hook<Policy, int(Arguments...)> {
 public:
  using Function = int (*)(Arguments...);

  static int Around(AnyFunction real, Arguments... arguments) {
    constexpr int kNotInitialized = 3;
    if (real == nullptr) return kNotInitialized;
    return Policy::Around(reinterpret_cast<Function>(real), arguments...);
  }

  static AnyFunction Wrap(AnyFunction real) {
    // Of constants, because other libraries look functions up before this one's constructors ran.
    static constexpr auto kWrappers = Wrappers(std::make_index_sequence<kPlaces>());
    for (const Function wrapper : kWrappers) {
      if (reinterpret_cast<AnyFunction>(wrapper) == real) return real;
    }
    for (std::size_t i = 0; i < kPlaces; ++i) {
      AnyFunction there = nullptr;
      if (reals_[i].compare_exchange_strong(there, real) || there == real) {
        return reinterpret_cast<AnyFunction>(kWrappers[i]);
      }
    }
    return real;
  }

 private:
  // A function that shares its Hook with another takes two for each: two default streams.
  static constexpr std::size_t kPlaces = 16;

  template <std::size_t kPlace>
  static int Wrapper(Arguments... arguments) {
    return Around(reals_[kPlace].load(std::memory_order_relaxed), arguments...);
  }

  template <std::size_t... kPlace>
  static constexpr std::array<Function, kPlaces> Wrappers(std::index_sequence<kPlace...>) {
    return {&Wrapper<kPlace>...};
  }

  static inline std::atomic<AnyFunction> reals_[kPlaces];
};

}  // namespace sublet::guard
