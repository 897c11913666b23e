// What the preloaded library exports: the loader's dlsym and dlvsym, and the driver's functions
// that are counted.
//
// A program comes to a driver function in one of three ways, and each leads to a wrapper here: by
// being linked to the driver (our functions below come first in the loader's order), by dlsym, or
// by cuGetProcAddress. Everything else of the driver is reached as if we were not there.
#include <dlfcn.h>
#include <string.h>

#include <atomic>

#include "guard/copy_traffic.h"
#include "guard/counters.h"
#include "guard/hooks.h"
#include "guard/real_symbols.h"

namespace sublet::guard {
namespace {

AnyFunction WrapProcAddress(const char* symbol, int version, AnyFunction found);

struct CountLaunch {
  template <typename Function, typename... Arguments>
  static int Around(Function real, Arguments... arguments) {
    const DriverCall call;
    if (!call.counts()) return real(arguments...);
    WorkBegins();
    const int code = real(arguments...);
    if (code == 0) Launched();
    return code;
  }
};

struct CountWait {
  template <typename Function, typename... Arguments>
  static int Around(Function real, Arguments... arguments) {
    const DriverCall call;
    const int code = real(arguments...);
    if (call.counts() && code == 0) Waited();
    return code;
  }
};

struct CountContext {
  template <typename Function, typename... Arguments>
  static int Around(Function real, Arguments... arguments) {
    const DriverCall call;
    const int code = real(arguments...);
    if (call.counts() && code == 0) ContextMade();
    return code;
  }
};

// kWaits: the function returns when the copy is done, so one from the GPU ends a burst.
template <typename Direction, bool kWaits>
struct CountCopy {
  template <typename Function, typename... Arguments>
  static int Around(Function real, Arguments... arguments) {
    const DriverCall call;
    if (!call.counts()) return real(arguments...);
    const Traffic traffic = Direction::Of(arguments...);
    if (traffic.to_device > 0) WorkBegins();
    const int code = real(arguments...);
    if (code == 0) {
      Copied(traffic);
      if (kWaits && traffic.from_device > 0) Waited();
    }
    return code;
  }
};

struct ToDevice {
  static Traffic Of(DeviceAddress, const void*, std::size_t bytes, auto...) { return {bytes, 0}; }
  static Traffic Of(void*, std::size_t, const void*, std::size_t bytes, auto...) {
    return {bytes, 0};
  }
};

struct FromDevice {
  static Traffic Of(void*, DeviceAddress, std::size_t bytes) { return {0, bytes}; }
  static Traffic Of(void*, DeviceAddress, std::size_t bytes, void*) { return {0, bytes}; }
  static Traffic Of(void*, void*, std::size_t, std::size_t bytes, auto...) { return {0, bytes}; }
};

struct EitherWay {
  static Traffic Of(DeviceAddress destination, DeviceAddress source, std::size_t bytes, auto...) {
    return TrafficBetween(destination, source, bytes);
  }
  static Traffic Of(const Copy2D* copy, auto...) { return TrafficOf(copy); }
  static Traffic Of(const Copy3D* copy, auto...) { return TrafficOf(copy); }
  static Traffic Of(const DeviceAddress* destinations, const DeviceAddress* sources,
                    const std::size_t* sizes, std::size_t count, auto...) {
    return TrafficOfBatch(destinations, sources, sizes, count);
  }
};

struct WrapWhatIsFound {
  template <typename Function, typename... Rest>
  static int Around(Function real, const char* symbol, void** found, int version, Rest... rest) {
    const int code = real(symbol, found, version, rest...);
    if (code == 0 && symbol != nullptr && found != nullptr && *found != nullptr) {
      *found = reinterpret_cast<void*>(
          WrapProcAddress(symbol, version, reinterpret_cast<AnyFunction>(*found)));
    }
    return code;
  }
};

using Copy = const Copy2D*;
using Box = const Copy3D*;
using Flags = unsigned long long;
using Sizes = const std::size_t*;
using Addresses = const DeviceAddress*;

// A program that asks for a function as a release has it that is newer than this file may get
// another signature under the old name, so that is passed on. The CUDA runtime asks for each in the
// version of its last change, whatever its own.
constexpr int kBefore = 14000;

}  // namespace
}  // namespace sublet::guard

// clang-format off
#define SUBLET_LAUNCH                                                                              \
  (void* a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned f, unsigned g, unsigned h,    \
   void* i, void** j, void** k), (a, b, c, d, e, f, g, h, i, j, k)
#define SUBLET_COOPERATIVE                                                                         \
  (void* a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned f, unsigned g, unsigned h,    \
   void* i, void** j), (a, b, c, d, e, f, g, h, i, j)
#define SUBLET_LAUNCH_EX (const void* a, void* b, void** c, void** d), (a, b, c, d)
#define SUBLET_GRAPH (void* a, void* b), (a, b)
#define SUBLET_HANDLE (void* a), (a)
#define SUBLET_H_TO_D (DeviceAddress a, const void* b, std::size_t c), (a, b, c)
#define SUBLET_H_TO_D_ASYNC                                                                        \
  (DeviceAddress a, const void* b, std::size_t c, void* d), (a, b, c, d)
#define SUBLET_D_TO_H (void* a, DeviceAddress b, std::size_t c), (a, b, c)
#define SUBLET_D_TO_H_ASYNC (void* a, DeviceAddress b, std::size_t c, void* d), (a, b, c, d)
#define SUBLET_H_TO_A                                                                              \
  (void* a, std::size_t b, const void* c, std::size_t d), (a, b, c, d)
#define SUBLET_H_TO_A_ASYNC                                                                        \
  (void* a, std::size_t b, const void* c, std::size_t d, void* e), (a, b, c, d, e)
#define SUBLET_A_TO_H (void* a, void* b, std::size_t c, std::size_t d), (a, b, c, d)
#define SUBLET_A_TO_H_ASYNC                                                                        \
  (void* a, void* b, std::size_t c, std::size_t d, void* e), (a, b, c, d, e)
#define SUBLET_ANY (DeviceAddress a, DeviceAddress b, std::size_t c), (a, b, c)
#define SUBLET_ANY_ASYNC                                                                           \
  (DeviceAddress a, DeviceAddress b, std::size_t c, void* d), (a, b, c, d)
#define SUBLET_2D (Copy a), (a)
#define SUBLET_2D_ASYNC (Copy a, void* b), (a, b)
#define SUBLET_3D (Box a), (a)
#define SUBLET_3D_ASYNC (Box a, void* b), (a, b)
#define SUBLET_BATCH_V1                                                                            \
  (Addresses a, Addresses b, Sizes c, std::size_t d, void* e, std::size_t* f, std::size_t g,       \
   std::size_t* h, void* i), (a, b, c, d, e, f, g, h, i)
#define SUBLET_BATCH_V2                                                                            \
  (Addresses a, Addresses b, Sizes c, std::size_t d, void* e, std::size_t* f, std::size_t g,       \
   void* h), (a, b, c, d, e, f, g, h)
#define SUBLET_RETAIN (void** a, int b), (a, b)
#define SUBLET_CREATE_V2 (void** a, unsigned b, int c), (a, b, c)
#define SUBLET_CREATE_V3 (void** a, void* b, int c, unsigned d, int e), (a, b, c, d, e)
#define SUBLET_CREATE_V4 (void** a, void* b, unsigned c, int d), (a, b, c, d)
#define SUBLET_PROC_V1 (const char* a, void** b, int c, Flags d), (a, b, c, d)
#define SUBLET_PROC_V2 (const char* a, void** b, int c, Flags d, int* e), (a, b, c, d, e)

// X(exported name, name for cuGetProcAddress, the CUDA versions for which that name means this
// function: from, before; what is done around it, parameters and arguments). A function exported
// for the per-thread default stream has no name of its own for cuGetProcAddress.
#define SUBLET_BOTH_STREAMS(X, name, suffix, base, from, before, policy, ...)                      \
  X(name, base, from, before, policy, __VA_ARGS__)                                                 \
  X(name##suffix, "", 0, 0, policy, __VA_ARGS__)

#define SUBLET_COPIES(X)                                                                           \
  SUBLET_BOTH_STREAMS(X, cuMemcpyHtoD_v2, _ptds, "cuMemcpyHtoD", 3020, kBefore,                    \
                      IN_SYNC, SUBLET_H_TO_D)                                                      \
  SUBLET_BOTH_STREAMS(X, cuMemcpyHtoDAsync_v2, _ptsz, "cuMemcpyHtoDAsync", 3020, kBefore,          \
                      IN_ASYNC, SUBLET_H_TO_D_ASYNC)                                               \
  SUBLET_BOTH_STREAMS(X, cuMemcpyDtoH_v2, _ptds, "cuMemcpyDtoH", 3020, kBefore,                    \
                      OUT_SYNC, SUBLET_D_TO_H)                                                     \
  SUBLET_BOTH_STREAMS(X, cuMemcpyDtoHAsync_v2, _ptsz, "cuMemcpyDtoHAsync", 3020, kBefore,          \
                      OUT_ASYNC, SUBLET_D_TO_H_ASYNC)                                              \
  SUBLET_BOTH_STREAMS(X, cuMemcpyHtoA_v2, _ptds, "cuMemcpyHtoA", 3020, kBefore,                    \
                      IN_SYNC, SUBLET_H_TO_A)                                                      \
  SUBLET_BOTH_STREAMS(X, cuMemcpyHtoAAsync_v2, _ptsz, "cuMemcpyHtoAAsync", 3020, kBefore,          \
                      IN_ASYNC, SUBLET_H_TO_A_ASYNC)                                               \
  SUBLET_BOTH_STREAMS(X, cuMemcpyAtoH_v2, _ptds, "cuMemcpyAtoH", 3020, kBefore,                    \
                      OUT_SYNC, SUBLET_A_TO_H)                                                     \
  SUBLET_BOTH_STREAMS(X, cuMemcpyAtoHAsync_v2, _ptsz, "cuMemcpyAtoHAsync", 3020, kBefore,          \
                      OUT_ASYNC, SUBLET_A_TO_H_ASYNC)                                              \
  SUBLET_BOTH_STREAMS(X, cuMemcpy, _ptds, "cuMemcpy", 4000, kBefore, ANY_SYNC, SUBLET_ANY)         \
  SUBLET_BOTH_STREAMS(X, cuMemcpyAsync, _ptsz, "cuMemcpyAsync", 4000, kBefore,                     \
                      ANY_ASYNC, SUBLET_ANY_ASYNC)                                                 \
  SUBLET_BOTH_STREAMS(X, cuMemcpy2D_v2, _ptds, "cuMemcpy2D", 3020, kBefore, ANY_SYNC, SUBLET_2D)   \
  SUBLET_BOTH_STREAMS(X, cuMemcpy2DUnaligned_v2, _ptds, "cuMemcpy2DUnaligned", 3020, kBefore,      \
                      ANY_SYNC, SUBLET_2D)                                                         \
  SUBLET_BOTH_STREAMS(X, cuMemcpy2DAsync_v2, _ptsz, "cuMemcpy2DAsync", 3020, kBefore,              \
                      ANY_ASYNC, SUBLET_2D_ASYNC)                                                  \
  SUBLET_BOTH_STREAMS(X, cuMemcpy3D_v2, _ptds, "cuMemcpy3D", 3020, kBefore, ANY_SYNC, SUBLET_3D)   \
  SUBLET_BOTH_STREAMS(X, cuMemcpy3DAsync_v2, _ptsz, "cuMemcpy3DAsync", 3020, kBefore,              \
                      ANY_ASYNC, SUBLET_3D_ASYNC)                                                  \
  SUBLET_BOTH_STREAMS(X, cuMemcpyBatchAsync, _ptsz, "cuMemcpyBatchAsync", 12080, 13000,            \
                      ANY_ASYNC, SUBLET_BATCH_V1)                                                  \
  SUBLET_BOTH_STREAMS(X, cuMemcpyBatchAsync_v2, _ptsz, "cuMemcpyBatchAsync", 13000, kBefore,       \
                      ANY_ASYNC, SUBLET_BATCH_V2)

#define SUBLET_EVERYTHING(X)                                                                       \
  SUBLET_BOTH_STREAMS(X, cuLaunchKernel, _ptsz, "cuLaunchKernel", 4000, kBefore,                   \
                      CountLaunch, SUBLET_LAUNCH)                                                  \
  SUBLET_BOTH_STREAMS(X, cuLaunchKernelEx, _ptsz, "cuLaunchKernelEx", 11060, kBefore,              \
                      CountLaunch, SUBLET_LAUNCH_EX)                                               \
  SUBLET_BOTH_STREAMS(X, cuLaunchCooperativeKernel, _ptsz, "cuLaunchCooperativeKernel", 9000,      \
                      kBefore, CountLaunch, SUBLET_COOPERATIVE)                                    \
  SUBLET_BOTH_STREAMS(X, cuGraphLaunch, _ptsz, "cuGraphLaunch", 10000, kBefore,                    \
                      CountLaunch, SUBLET_GRAPH)                                                   \
  SUBLET_BOTH_STREAMS(X, cuStreamSynchronize, _ptsz, "cuStreamSynchronize", 2000, kBefore,         \
                      CountWait, SUBLET_HANDLE)                                                    \
  X(cuEventSynchronize, "cuEventSynchronize", 2000, kBefore, CountWait, SUBLET_HANDLE)             \
  X(cuCtxSynchronize, "cuCtxSynchronize", 2000, kBefore, CountWait, SUBLET_HANDLE)                 \
  X(cuCtxSynchronize_v2, "cuCtxSynchronize_v2", 2000, kBefore, CountWait, SUBLET_HANDLE)           \
  X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", 7000, kBefore, CountContext,             \
    SUBLET_RETAIN)                                                                                 \
  X(cuCtxCreate_v2, "cuCtxCreate", 3020, 11040, CountContext, SUBLET_CREATE_V2)                    \
  X(cuCtxCreate_v3, "cuCtxCreate", 11040, 12050, CountContext, SUBLET_CREATE_V3)                   \
  X(cuCtxCreate_v4, "cuCtxCreate", 12050, kBefore, CountContext, SUBLET_CREATE_V4)                 \
  SUBLET_COPIES(X)                                                                                 \
  SUBLET_BOTH_STREAMS(X, cuGetProcAddress, _ptsz, "cuGetProcAddress", 11030, 12000,                \
                      WrapWhatIsFound, SUBLET_PROC_V1)                                             \
  SUBLET_BOTH_STREAMS(X, cuGetProcAddress_v2, _ptsz, "cuGetProcAddress", 12000, kBefore,           \
                      WrapWhatIsFound, SUBLET_PROC_V2)
// clang-format on

namespace sublet::guard {
namespace {

using IN_SYNC = CountCopy<ToDevice, true>;
using IN_ASYNC = CountCopy<ToDevice, false>;
using OUT_SYNC = CountCopy<FromDevice, true>;
using OUT_ASYNC = CountCopy<FromDevice, false>;
using ANY_SYNC = CountCopy<EitherWay, true>;
using ANY_ASYNC = CountCopy<EitherWay, false>;

#define SUBLET_COMMA_BEFORE(...) __VA_OPT__(, ) __VA_ARGS__
#define SUBLET_DEFINE(name, base, from, before, policy, ...) \
  SUBLET_DEFINE_EXPANDED(name, policy, __VA_ARGS__)
#define SUBLET_DEFINE_EXPANDED(name, policy, parameters, arguments)                 \
  extern "C" [[gnu::visibility("default")]] int name parameters {                   \
    static constinit std::atomic<AnyFunction> real{nullptr};                        \
    return Hook<policy, int parameters>::Around(DriverFunction(real, #name)         \
                                                    SUBLET_COMMA_BEFORE arguments); \
  }

}  // namespace

SUBLET_EVERYTHING(SUBLET_DEFINE)

namespace {

struct Known {
  const char* exported;
  const char* asked;  // Of cuGetProcAddress.
  int from;
  int before;
  AnyFunction (*wrap)(AnyFunction);
  AnyFunction own;
};

#define SUBLET_ROW(name, base, from, before, policy, ...) \
  SUBLET_ROW_EXPANDED(name, base, from, before, policy, __VA_ARGS__)
#define SUBLET_ROW_EXPANDED(name, base, from, before, policy, parameters, arguments) \
  {#name,                                                                            \
   base,                                                                             \
   from,                                                                             \
   before,                                                                           \
   &Hook<policy, int parameters>::Wrap,                                              \
   reinterpret_cast<AnyFunction>(&name)},

const Known kKnown[] = {SUBLET_EVERYTHING(SUBLET_ROW)};

const Known* FindExported(const char* name) {
  for (const Known& known : kKnown) {
    if (::strcmp(known.exported, name) == 0) return &known;
  }
  return nullptr;
}

AnyFunction WrapProcAddress(const char* symbol, int version, AnyFunction found) {
  for (const Known& known : kKnown) {
    const bool by_version = ::strcmp(known.asked, symbol) == 0;
    // A name with its own suffix is of one signature, whatever the version.
    const bool by_name = !by_version && ::strcmp(known.exported, symbol) == 0 &&
                         ::strcmp(known.exported, known.asked) != 0;
    if (by_name || (by_version && version >= known.from && version < known.before)) {
      return known.wrap(found);
    }
  }
  return found;
}

// What a program gets for a function that is counted. Looking up by RTLD_DEFAULT, or in the whole
// program, finds our own function first; it is an answer only where a driver is loaded behind it.
void* Counted(const Known& known, void* found) {
  const auto function = reinterpret_cast<AnyFunction>(found);
  if (function == nullptr) return nullptr;
  if (function != known.own) return reinterpret_cast<void*>(known.wrap(function));
  return DriverFunction(known.exported) != nullptr ? found : nullptr;
}

[[gnu::noinline]] void* LookUp(Dlsym real, void* handle, const Known& known) {
  if (handle == RTLD_DEFAULT) return Counted(known, reinterpret_cast<void*>(known.own));
  return Counted(known, real(handle, known.exported));
}

[[gnu::noinline]] void* LookUp(Dlvsym real, void* handle, const Known& known, const char* version) {
  if (handle == RTLD_DEFAULT) return Counted(known, reinterpret_cast<void*>(known.own));
  return Counted(known, real(handle, known.exported, version));
}

// Looking up by RTLD_NEXT means "behind me", of which only the caller's own address tells.
const Known* CountedName(void* handle, const char* name) {
  if (handle == RTLD_NEXT || name == nullptr || name[0] != 'c' || name[1] != 'u') return nullptr;
  return FindExported(name);
}

}  // namespace
}  // namespace sublet::guard

// The loader tells its caller by the return address on the stack. So where the real function is to
// answer, these two must jump to it rather than call it; the compiler does that at -O2, which is
// set for this file, and a test sees to it.
extern "C" [[gnu::visibility("default")]] void* dlsym(void* handle, const char* name) noexcept {
  using namespace sublet::guard;
  const Dlsym real = RealDlsym();
  if (real == nullptr) return nullptr;
  const Known* const known = CountedName(handle, name);
  if (known == nullptr) return real(handle, name);
  return LookUp(real, handle, *known);
}

extern "C" [[gnu::visibility("default")]] void* dlvsym(void* handle, const char* name,
                                                       const char* version) noexcept {
  using namespace sublet::guard;
  const Dlvsym real = RealDlvsym();
  if (real == nullptr) return nullptr;
  const Known* const known = CountedName(handle, name);
  if (known == nullptr) return real(handle, name, version);
  return LookUp(real, handle, *known, version);
}
