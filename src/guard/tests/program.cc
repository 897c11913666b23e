// A program that uses a CUDA driver in the way named by its first argument, and exits with 0 where
// the driver saw what it should have.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "guard/copy_traffic.h"

extern "C" int FirstRankBehind();

namespace {

using Launch = int (*)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                       void*, void**, void**);
using Wait = int (*)(void*);
using WaitForAll = int (*)();
using FindV1 = int (*)(const char*, void**, int, unsigned long long);
using FindV2 = int (*)(const char*, void**, int, unsigned long long, int*);
using Address = unsigned long long;

#define EXPECT(condition)                                                    \
  do {                                                                       \
    if (!(condition)) {                                                      \
      std::fprintf(stderr, "line %d: not true: %s\n", __LINE__, #condition); \
      std::exit(1);                                                          \
    }                                                                        \
  } while (false)

void* Handle() {
  // As the CUDA runtime opens it: its symbols are nobody else's.
  static void* const handle = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  EXPECT(handle != nullptr);
  return handle;
}

template <typename T>
T Get(const char* name) {
  void* const found = ::dlsym(Handle(), name);
  EXPECT(found != nullptr);
  return reinterpret_cast<T>(found);
}

void* Pointer(std::uintptr_t value) {
  return reinterpret_cast<void*>(value);
}

int LaunchWith(Launch launch) {
  return launch(Pointer(11), 12, 13, 14, 15, 16, 17, 18, Pointer(19),
                static_cast<void**>(Pointer(20)), static_cast<void**>(Pointer(21)));
}

// All eleven arguments arrived, in `variant` of the function.
void ExpectLaunched(int variant) {
  const auto* const last = Get<unsigned long long*>("fake_last");
  for (unsigned i = 0; i < 11; ++i) EXPECT(last[i] == i + 11);
  EXPECT(*Get<int*>("fake_variant") == variant);
}

void Burst(Launch launch, Wait wait) {
  EXPECT(LaunchWith(launch) == 0);
  EXPECT(wait(nullptr) == 0);
}

void ByDlsym() {
  const auto launch = Get<Launch>("cuLaunchKernel");
  const auto wait = Get<Wait>("cuStreamSynchronize");
  for (int i = 0; i < 3; ++i) Burst(launch, wait);
  ExpectLaunched(1);
  EXPECT(LaunchWith(Get<Launch>("cuLaunchKernel_ptsz")) == 0);
  ExpectLaunched(2);
  EXPECT(Get<int (*)(void*, void*)>("cuGraphLaunch")(nullptr, nullptr) == 0);
  EXPECT(Get<WaitForAll>("cuCtxSynchronize")() == 0);
  // Asked twice, answered the same.
  EXPECT(Get<Launch>("cuLaunchKernel") == launch);
}

void ByProcAddress() {
  void* found = nullptr;
  int status = -1;
  const auto find = Get<FindV2>("cuGetProcAddress_v2");
  EXPECT(find("cuLaunchKernel", &found, 13000, 0, &status) == 0 && status == 0);
  const auto launch = reinterpret_cast<Launch>(found);
  EXPECT(LaunchWith(launch) == 0);
  ExpectLaunched(3);
  EXPECT(find("cuLaunchKernel", &found, 13000, 2, &status) == 0);
  EXPECT(LaunchWith(reinterpret_cast<Launch>(found)) == 0);
  ExpectLaunched(2);
  EXPECT(find("cuCtxSynchronize", &found, 2000, 0, &status) == 0);
  EXPECT(reinterpret_cast<WaitForAll>(found)() == 0);
  // A release that nobody knew when the guard was written may have changed the arguments.
  EXPECT(find("cuLaunchKernel", &found, 14000, 0, &status) == 0);
  EXPECT(LaunchWith(reinterpret_cast<Launch>(found)) == 0);
  ExpectLaunched(3);
  // What is not there is said not to be there, in the driver's own words.
  EXPECT(find("cuNothing", &found, 13000, 0, &status) == 500 && status == 1 && found == nullptr);
  // The finder finds itself, in the version asked for, and what that finds is counted too.
  EXPECT(find("cuGetProcAddress", &found, 11030, 0, &status) == 0);
  EXPECT(reinterpret_cast<FindV1>(found)("cuLaunchKernel", &found, 11030, 0) == 0);
  EXPECT(LaunchWith(reinterpret_cast<Launch>(found)) == 0);
  EXPECT(find("cuGetProcAddress", &found, 12000, 0, &status) == 0);
  EXPECT(reinterpret_cast<FindV2>(found)("cuCtxSynchronize", &found, 13000, 0, &status) == 0);
  EXPECT(reinterpret_cast<Wait>(found)(nullptr) == 0);
}

void Plugin(const char* path) {
  void* const plugin = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
  EXPECT(plugin != nullptr);
  void* const run = ::dlsym(plugin, "RunBurst");
  EXPECT(run != nullptr);
  EXPECT(reinterpret_cast<int (*)()>(run)() == 0);
}

void Threads() {
  const auto launch = Get<Launch>("cuLaunchKernel");
  const auto wait = Get<Wait>("cuEventSynchronize");
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 1000; ++j) Burst(launch, wait);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// One thread launches, another one waits for it, and nobody works for 200 ms before the next.
void Handover() {
  const auto launch = Get<Launch>("cuLaunchKernel");
  const auto wait = Get<Wait>("cuEventSynchronize");
  for (int i = 0; i < 5; ++i) {
    if (i > 0) ::usleep(200'000);
    EXPECT(LaunchWith(launch) == 0);
    std::thread([&] { EXPECT(wait(nullptr) == 0); }).join();
  }
  EXPECT(wait(nullptr) == 0);  // For nothing: others have waited for all that was launched.
}

void Fork() {
  const auto launch = Get<Launch>("cuLaunchKernel");
  const auto wait = Get<Wait>("cuEventSynchronize");
  Burst(launch, wait);
  const pid_t child = ::fork();
  if (child == 0) {
    for (int i = 0; i < 10; ++i) Burst(launch, wait);
    ::_exit(0);
  }
  int status = -1;
  EXPECT(::waitpid(child, &status, 0) == child && status == 0);
  Burst(launch, wait);
}

void Exec(const char* self) {
  ByDlsym();
  ::execl(self, self, "dlsym", nullptr);
  EXPECT(false);
}

void Copies() {
  const Address device = 4096;
  char host[64] = {};
  const auto address = reinterpret_cast<Address>(host);
  const auto out = Get<int (*)(void*, Address, std::size_t)>("cuMemcpyDtoH_v2");
  const auto in = Get<int (*)(Address, const void*, std::size_t)>("cuMemcpyHtoD_v2");
  const auto any = Get<int (*)(Address, Address, std::size_t)>("cuMemcpy");
  EXPECT(in(device, host, 1000) == 0);
  EXPECT(Get<int (*)(Address, const void*, std::size_t, void*)>("cuMemcpyHtoDAsync_v2")(
             device, host, 200, nullptr) == 0);
  EXPECT(any(device, address, 30) == 0);
  EXPECT(any(device, device, 1 << 20) == 0);
  EXPECT(out(host, device, 7) == 0);  // Nothing was launched: no burst.
  EXPECT(LaunchWith(Get<Launch>("cuLaunchKernel")) == 0);
  EXPECT(out(host, device, 4) == 0);
  const Address to[] = {device, device};
  const Address from[] = {address, address};
  const std::size_t sizes[] = {10000, 20000};
  using Batch = int (*)(const Address*, const Address*, const std::size_t*, std::size_t, void*,
                        std::size_t*, std::size_t, void*);
  EXPECT(Get<Batch>("cuMemcpyBatchAsync_v2")(to, from, sizes, 2, nullptr, nullptr, 77,
                                             Pointer(88)) == 0);
  const auto* const last = Get<unsigned long long*>("fake_last");
  EXPECT(last[6] == 77 && last[7] == 88);
  sublet::guard::Copy2D rectangle = {};
  rectangle.source.memory_type = 2;
  rectangle.destination.memory_type = 1;
  rectangle.width_bytes = 100;
  rectangle.height = 3;
  EXPECT(Get<int (*)(const void*)>("cuMemcpy2D_v2")(&rectangle) == 0);
}

void Failing() {
  const auto launch = Get<Launch>("cuLaunchKernel");
  const auto wait = Get<Wait>("cuStreamSynchronize");
  *Get<int*>("fake_error") = 700;
  EXPECT(LaunchWith(launch) == 700);
  EXPECT(wait(nullptr) == 700);
}

void Contexts() {
  void* context = nullptr;
  const auto retain = Get<int (*)(void**, int)>("cuDevicePrimaryCtxRetain");
  EXPECT(retain(&context, 0) == 0 && context != nullptr);
  EXPECT(retain(&context, 0) == 0);
}

// What has nothing to do with a driver works as ever.
void Loader() {
  EXPECT(FirstRankBehind() == 2);
  EXPECT(::dlsym(RTLD_DEFAULT, "cuLaunchKernel") == nullptr);
  EXPECT(::dlerror() != nullptr);
  EXPECT(::dlsym(RTLD_DEFAULT, "strlen") != nullptr);
  EXPECT(::dlvsym(RTLD_DEFAULT, "clock_gettime", "GLIBC_2.17") != nullptr);
  void* const whole = ::dlopen(nullptr, RTLD_NOW);
  EXPECT(::dlsym(whole, "cuLaunchKernel") == nullptr);
  EXPECT(::dlsym(Handle(), "cuNothing") == nullptr);
  EXPECT(std::strstr(::dlerror(), "cuNothing") != nullptr);
  // Now there is a driver, but still not for everybody.
  EXPECT(LaunchWith(Get<Launch>("cuLaunchKernel")) == 0);
}

}  // namespace

int main(int argc, char** argv) {
  EXPECT(argc >= 2);
  const auto is = [&](const char* name) { return std::strcmp(argv[1], name) == 0; };
  if (is("dlsym")) {
    ByDlsym();
  } else if (is("proc-address")) {
    ByProcAddress();
  } else if (is("plugin")) {
    Plugin(argv[2]);
  } else if (is("threads")) {
    Threads();
  } else if (is("handover")) {
    Handover();
  } else if (is("fork")) {
    Fork();
  } else if (is("exec")) {
    Exec(argv[0]);
  } else if (is("copies")) {
    Copies();
  } else if (is("failing")) {
    Failing();
  } else if (is("contexts")) {
    Contexts();
  } else {
    EXPECT(is("loader"));
    Loader();
  }
  return 0;
}
