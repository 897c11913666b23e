// guard/real_symbols.h
//
// The functions behind ours: the loader's own dlsym and dlvsym, and the CUDA driver's functions.
//
// The guard exports dlsym, so calling it by name finds the guard again. The loader's is read from
// the C library's symbol table instead, which every loaded object carries.
//
// Thread safety: any thread.
#pragma once

#include <atomic>

namespace sublet::guard {

using AnyFunction = void (*)();
using Dlsym = void* (*)(void* handle, const char* name);
using Dlvsym = void* (*)(void* handle, const char* name, const char* version);

// nullptr where the C library is none that we know; then nothing can be looked up by anybody.
Dlsym RealDlsym();
Dlvsym RealDlvsym();

// A function that is exported by the CUDA driver which this process has loaded; nullptr where there
// is none yet. Never our own.
AnyFunction DriverFunction(const char* name);

// The same, remembered in `slot`.
AnyFunction DriverFunction(std::atomic<AnyFunction>& slot, const char* name);

}  // namespace sublet::guard
