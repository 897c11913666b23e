#include "measure/timebase.h"

#include <dlfcn.h>

#include <algorithm>

#include "base/clock.h"

namespace sublet {

Timebase Timebase::Of(const std::string& cuda_library) {
  Timebase time;
  void* const library = ::dlopen(cuda_library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return time;
  time.now_ = reinterpret_cast<unsigned long long (*)()>(::dlsym(library, "subletSimNow"));
  time.hold_ = reinterpret_cast<void (*)()>(::dlsym(library, "subletSimHold"));
  time.let_go_ = reinterpret_cast<void (*)()>(::dlsym(library, "subletSimLetGo"));
  if (time.now_ == nullptr || time.hold_ == nullptr || time.let_go_ == nullptr) return Real();
  return time;
}

std::int64_t Timebase::Now() const {
  if (now_ == nullptr) return MonotonicNanoseconds();
  // At the very beginning its clock reads 0, which others take for "none yet".
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(now_()));
}

Timebase::Hold::Hold(const Timebase& time) : time_(time) {
  if (time_.hold_ != nullptr) time_.hold_();
}

Timebase::Hold::~Hold() {
  if (time_.let_go_ != nullptr) time_.let_go_();
}

Timebase::Leave::Leave(const Timebase& time) : time_(time) {
  if (time_.let_go_ != nullptr) time_.let_go_();
}

Timebase::Leave::~Leave() {
  if (time_.hold_ != nullptr) time_.hold_();
}

}  // namespace sublet
