// kvcache/turn_mutex.h
//
// A mutex for one who works long and lets others in between: whoever waits gets the next turn.
//
//   for (piece of work) {
//     const std::lock_guard lock(mutex);   // After each piece, one who waited goes first.
//     ...
//   }
//
// With a std::mutex alone, a thread that unlocks and locks again at once mostly wins against those
// that must first be woken. Here it would have to pass a gate, and who waits stands in it.
//
// Thread safety: that is what it is for.
#pragma once

#include <mutex>

namespace sublet {

class TurnMutex {
 public:
  void lock() {
    gate_.lock();
    mutex_.lock();
    gate_.unlock();
  }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex gate_;
  std::mutex mutex_;
};

}  // namespace sublet
