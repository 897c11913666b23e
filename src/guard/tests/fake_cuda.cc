// A CUDA driver that only remembers what it was asked, under the names of the real one.
//
// As the real one does, it hands out other addresses by cuGetProcAddress than it exports, and calls
// its own exported functions.
#include <cstddef>
#include <cstring>
#include <ctime>

extern "C" {

unsigned long long fake_last[16];  // The arguments of the last launch or copy.
int fake_variant = 0;              // 1: exported, 2: per-thread stream, 3: by cuGetProcAddress.
int fake_error = 0;                // What every function returns.

// Addresses below this are the GPU's, the others the host's.
constexpr unsigned long long kDeviceAddressEnd = 1u << 30;

static int Launch(int variant, void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                  unsigned by, unsigned bz, unsigned shared, void* stream, void** parameters,
                  void** extra) {
  fake_variant = variant;
  const unsigned long long all[] = {reinterpret_cast<unsigned long long>(f),
                                    gx,
                                    gy,
                                    gz,
                                    bx,
                                    by,
                                    bz,
                                    shared,
                                    reinterpret_cast<unsigned long long>(stream),
                                    reinterpret_cast<unsigned long long>(parameters),
                                    reinterpret_cast<unsigned long long>(extra)};
  std::memcpy(fake_last, all, sizeof all);
  return fake_error;
}

int cuInit(unsigned) {
  return 0;
}

int cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void* stream, void** parameters, void** extra) {
  return Launch(1, f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra);
}

int cuLaunchKernel_ptsz(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared, void* stream, void** parameters,
                        void** extra) {
  return Launch(2, f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra);
}

static int LaunchInside(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared, void* stream, void** parameters,
                        void** extra) {
  return Launch(3, f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra);
}

int cuGraphLaunch(void*, void*) {
  return fake_error;
}

// A wait of 2 ms.
int cuStreamSynchronize(void*) {
  const timespec wait = {0, 2'000'000};
  nanosleep(&wait, nullptr);
  return fake_error;
}

int cuCtxSynchronize() {
  return fake_error;
}

int cuCtxSynchronize_v2(void*) {
  return fake_error;
}

int cuEventSynchronize(void*) {
  return fake_error;
}

int cuDevicePrimaryCtxRetain(void** context, int) {
  *context = fake_last;
  return fake_error;
}

int cuPointerGetAttribute(void* out, int attribute, unsigned long long address) {
  if (attribute != 2 || address >= kDeviceAddressEnd) return 1;
  *static_cast<unsigned*>(out) = 2;
  return 0;
}

int cuMemcpyHtoD_v2(unsigned long long, const void*, std::size_t) {
  return fake_error;
}

int cuMemcpyHtoDAsync_v2(unsigned long long, const void*, std::size_t, void*) {
  return fake_error;
}

int cuMemcpyDtoH_v2(void*, unsigned long long, std::size_t) {
  return fake_error;
}

int cuMemcpyDtoHAsync_v2(void*, unsigned long long, std::size_t, void*) {
  return fake_error;
}

int cuMemcpy(unsigned long long to, unsigned long long from, std::size_t bytes) {
  return cuMemcpyHtoD_v2(to, reinterpret_cast<const void*>(from), bytes);
}

int cuMemcpyBatchAsync_v2(const unsigned long long*, const unsigned long long*, const std::size_t*,
                          std::size_t, void*, std::size_t*, std::size_t attributes, void* stream) {
  fake_last[6] = attributes;
  fake_last[7] = reinterpret_cast<unsigned long long>(stream);
  return fake_error;
}

int cuMemcpy2D_v2(const void*) {
  return fake_error;
}

int cuGetProcAddress_v2(const char* symbol, void** found, int version, unsigned long long flags,
                        int* status);

int cuGetProcAddress(const char* symbol, void** found, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(symbol, found, version, flags, nullptr);
}

int cuGetProcAddress_v2(const char* symbol, void** found, int version, unsigned long long flags,
                        int* status) {
  void* function = nullptr;
  if (std::strcmp(symbol, "cuLaunchKernel") == 0) {
    function = (flags & 2) != 0 ? reinterpret_cast<void*>(&cuLaunchKernel_ptsz)
                                : reinterpret_cast<void*>(&LaunchInside);
  } else if (std::strcmp(symbol, "cuStreamSynchronize") == 0) {
    function = reinterpret_cast<void*>(&cuStreamSynchronize);
  } else if (std::strcmp(symbol, "cuCtxSynchronize") == 0) {
    function = version < 13000 ? reinterpret_cast<void*>(&cuCtxSynchronize)
                               : reinterpret_cast<void*>(&cuCtxSynchronize_v2);
  } else if (std::strcmp(symbol, "cuInit") == 0) {
    function = reinterpret_cast<void*>(&cuInit);
  } else if (std::strcmp(symbol, "cuGetProcAddress") == 0) {
    function = version < 12000 ? reinterpret_cast<void*>(&cuGetProcAddress)
                               : reinterpret_cast<void*>(&cuGetProcAddress_v2);
  }
  *found = function;
  if (status != nullptr) *status = function != nullptr ? 0 : 1;
  return function != nullptr ? 0 : 500;
}

}  // extern "C"
