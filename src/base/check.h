// base/check.h
//
// CHECK(condition) states what our own code promised. It stays on in release builds: a program that
// hands out pieces of GPUs does harm once its books are wrong, so it ends at the first wrong entry.
// What the outside world can cause is a Result (base/result.h), never a CHECK.
#pragma once

namespace sublet::internal {

[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);

}  // namespace sublet::internal

#define CHECK(condition)                                               \
  do {                                                                 \
    if (!(condition)) [[unlikely]]                                     \
      ::sublet::internal::CheckFailed(#condition, __FILE__, __LINE__); \
  } while (false)
