// kvcache/memory_budget.h
//
// How much memory a part of the index may take, and how much it has taken.
//
//   MemoryBudget budget(64 << 20);
//   if (!budget.Take(bytes)) ...   // Something must go first.
//   budget.Give(bytes);
//
// Thread safety: its owner's.
#pragma once

#include <cstddef>

namespace sublet {

class MemoryBudget {
 public:
  explicit MemoryBudget(std::size_t bytes_max) : max_(bytes_max) {}

  bool Take(std::size_t bytes) {
    if (bytes > max_ - used_) return false;
    used_ += bytes;
    return true;
  }
  void Give(std::size_t bytes) { used_ -= bytes; }

  std::size_t used() const { return used_; }
  std::size_t max() const { return max_; }

 private:
  std::size_t max_;
  std::size_t used_ = 0;
};

}  // namespace sublet
