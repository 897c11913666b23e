// measure/timebase.h
//
// The clock that the lab's figures are taken by: the machine's, or the simulated GPU's.
//
// On the simulated driver a kernel's time is computed, not waited for, so only the driver's own
// clock tells how long it took (sim/driver/sublet_sim_cuda.h). It stands still while a process that
// holds it does something other than wait for the GPU. So who is about to work holds it, and lets
// go before waiting for anything else; on a real GPU both do nothing.
//
//   const Timebase time = Timebase::Of(cuda_library_path);
//   const Timebase::Hold hold(time);
//   const std::int64_t start = time.Now();
//
// Thread safety: as the driver's; the hold is the process's.
#pragma once

#include <cstdint>
#include <string>

namespace sublet {

class Timebase {
 public:
  static Timebase Real() { return {}; }
  // The clock of the driver library at this path where it has one, else the machine's. Loads the
  // library, which stays loaded; one that can't be loaded has no clock.
  static Timebase Of(const std::string& cuda_library);

  bool simulated() const { return now_ != nullptr; }
  std::int64_t Now() const;  // Nanoseconds, never 0.

  // Holds the clock while it lives.
  class Hold {
   public:
    explicit Hold(const Timebase& time);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    const Timebase& time_;
  };
  // Lets a held clock run while it lives.
  class Leave {
   public:
    explicit Leave(const Timebase& time);
    ~Leave();
    Leave(const Leave&) = delete;
    Leave& operator=(const Leave&) = delete;

   private:
    const Timebase& time_;
  };

 private:
  unsigned long long (*now_)() = nullptr;
  void (*hold_)() = nullptr;
  void (*let_go_)() = nullptr;
};

}  // namespace sublet
