// measure/cuda_library.h
//
// The CUDA driver library, found and loaded at run time, and one device of it.
//
//   ASSIGN_OR_RETURN(CudaLibrary cuda, CudaLibrary::Open(FindCuda(flag, env, folder)));
//   ASSIGN_OR_RETURN(CudaContext context, CudaContext::Make(cuda, {}));
//   RETURN_IF_ERROR(cuda.Check(cuda.api().memory_alloc(&pointer, bytes), "allocating"));
//
// Which device is the first is up to CUDA_VISIBLE_DEVICES, which must be set before Open().
//
// Thread safety: constant after construction. The driver itself is thread-safe; a context is
// current to the thread that made it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "inventory/nvml_library.h"
#include "measure/cuda_api.h"

namespace sublet {

namespace cuda {

// The functions by short name.
struct Api {
#define SUBLET_CUDA_MEMBER(member, name, parameters) Return(*member) parameters = nullptr;
  SUBLET_CUDA_REQUIRED(SUBLET_CUDA_MEMBER)
#undef SUBLET_CUDA_MEMBER
};

}  // namespace cuda

// The library to load: `flag` if given, else SUBLET_CUDA, else, when SUBLET_SIM is set, the
// simulated driver at `program_folder`/../lib/sublet-sim, else the driver's own.
std::string FindCuda(std::string_view flag, const Environment& environment,
                     std::string_view program_folder);

class CudaLibrary {
 public:
  // Loads the library and calls cuInit. Fails with kUnavailable where there is no library or no
  // GPU, with kUnsupported where a function is missing.
  static Result<CudaLibrary> Open(const std::string& path);

  CudaLibrary(CudaLibrary&& other) noexcept;
  CudaLibrary& operator=(CudaLibrary&&) = delete;
  CudaLibrary(const CudaLibrary&) = delete;
  CudaLibrary& operator=(const CudaLibrary&) = delete;
  // The driver stays loaded: its own threads may still run.
  ~CudaLibrary() = default;

  const cuda::Api& api() const { return api_; }
  // A function that is not in cuda_api.h; nullptr where the library doesn't export it.
  void* Find(const char* name) const;

  // A success as ok; anything else as an Error whose message is "what: text (NAME)".
  Status Check(cuda::Return code, std::string_view what) const;
  // "CUDA_ERROR_OUT_OF_MEMORY"
  std::string NameOf(cuda::Return code) const;

 private:
  explicit CudaLibrary(void* handle) : handle_(handle) {}
  Status Load(const std::string& path);

  void* handle_;  // Of dlopen.
  cuda::Api api_;
};

struct CudaDevice {
  int sm_count = 0;  // Fewer than the GPU has under an SM cap or in a MIG instance.
  int capability_major = 0;
  int capability_minor = 0;
  Bytes memory;

  bool AtLeast(int major, int minor) const {
    return capability_major > major || (capability_major == major && capability_minor >= minor);
  }
};

// The primary context of the first visible device, current to this thread.
class CudaContext {
 public:
  struct Options {
    // A wait sleeps, and an interrupt ends it. Otherwise it looks again and again and lets other
    // threads run in between: as quick as spinning where there is a processor for each process, and
    // no worse than sleeping where there isn't.
    bool blocking_wait = false;
  };
  static Result<CudaContext> Make(const CudaLibrary& cuda, const Options& options);

  CudaContext(CudaContext&& other) noexcept;
  CudaContext& operator=(CudaContext&&) = delete;
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;
  ~CudaContext();

  const CudaDevice& device() const { return device_; }

 private:
  CudaContext(const CudaLibrary& cuda, cuda::Device number) : cuda_(&cuda), number_(number) {}

  const CudaLibrary* cuda_;  // nullptr after a move.
  cuda::Device number_;
  CudaDevice device_;
};

// What is known of the first visible device without making a context.
Result<CudaDevice> FirstDevice(const CudaLibrary& cuda);

}  // namespace sublet
