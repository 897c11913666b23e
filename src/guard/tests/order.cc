// Two libraries are made of this; each has a Rank() of its own, and looks for the next one.
#include <dlfcn.h>

extern "C" int Rank() {
  return RANK;
}

// The definition that comes behind this library's own, or -1.
extern "C" int BEHIND() {
  void* const found = ::dlsym(RTLD_NEXT, "Rank");
  if (found == nullptr) return -1;
  return reinterpret_cast<int (*)()>(found)();
}
