// A program of somebody else's: it knows CUDA's header and nothing of Sublet. It makes a context,
// copies a buffer in and out on a stream, launches a kernel of its own, and times it with events.
//
// Built only where cuda.h is, whose prototypes are thus compared with what the look-alike does.
// Prints one line for each step; the exit status is 0 when all went as on hardware.
#include <cuda.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static const char ptx[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n"
    ".visible .entry foreign(.param .u64 a) { ret; }\n";

// Declares `name` as a pointer to the exported function.
#define LOAD(name)                               \
  __typeof__(&name) name##_p;                    \
  *(void**)&name##_p = dlsym(lib, STRING(name)); \
  if (name##_p == NULL) {                        \
    printf("not exported: %s\n", STRING(name));  \
    return 1;                                    \
  }
#define STRING(name) STRING_OF(name)
#define STRING_OF(name) #name
#define EXPECT(call, code)            \
  do {                                \
    const int got = (int)(call);      \
    printf("%s -> %d\n", #call, got); \
    if (got != (code)) return 1;      \
  } while (0)

static int CopyAndTime(void* lib, CUstream stream, CUfunction kernel) {
  LOAD(cuMemAlloc)
  LOAD(cuMemFree)
  LOAD(cuMemcpyHtoD)
  LOAD(cuMemcpyDtoHAsync)
  LOAD(cuLaunchKernelEx)
  LOAD(cuEventCreate)
  LOAD(cuEventRecord)
  LOAD(cuEventSynchronize)
  LOAD(cuEventElapsedTime)
  LOAD(cuEventDestroy)
  char in[1000];
  char out[1000];
  CUdeviceptr device = 0;
  CUevent events[2];
  float ms = -1;
  memset(in, 5, sizeof in);
  EXPECT(cuMemAlloc_p(&device, sizeof in), CUDA_SUCCESS);
  EXPECT(cuMemcpyHtoD_p(device, in, sizeof in), CUDA_SUCCESS);
  EXPECT(cuEventCreate_p(&events[0], CU_EVENT_DEFAULT), CUDA_SUCCESS);
  EXPECT(cuEventCreate_p(&events[1], CU_EVENT_DEFAULT), CUDA_SUCCESS);
  EXPECT(cuEventRecord_p(events[0], stream), CUDA_SUCCESS);
  CUlaunchConfig config;
  memset(&config, 0, sizeof config);
  config.gridDimX = 100;
  config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
  config.blockDimX = 128;
  config.hStream = stream;
  void* parameters[] = {&device};
  EXPECT(cuLaunchKernelEx_p(&config, kernel, parameters, NULL), CUDA_SUCCESS);
  EXPECT(cuEventRecord_p(events[1], stream), CUDA_SUCCESS);
  EXPECT(cuMemcpyDtoHAsync_p(out, device, sizeof out, stream), CUDA_SUCCESS);
  EXPECT(cuEventSynchronize_p(events[1]), CUDA_SUCCESS);
  EXPECT(cuEventElapsedTime_p(&ms, events[0], events[1]), CUDA_SUCCESS);
  printf("%f ms\n", ms);
  EXPECT(cuEventDestroy_p(events[0]), CUDA_SUCCESS);
  EXPECT(cuMemFree_p(device), CUDA_SUCCESS);
  return ms > 0 && memcmp(in, out, sizeof in) == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  void* lib = dlopen(argv[1], RTLD_NOW);
  if (lib == NULL) {
    printf("%s\n", dlerror());
    return 1;
  }
  LOAD(cuInit)
  LOAD(cuDeviceGet)
  LOAD(cuDeviceGetName)
  LOAD(cuDeviceGetAttribute)
  LOAD(cuCtxDestroy)
  LOAD(cuCtxGetDevice)
  LOAD(cuModuleLoadData)
  LOAD(cuModuleGetFunction)
  LOAD(cuStreamCreate)
  LOAD(cuStreamDestroy)
#if CUDA_VERSION >= 13000
  LOAD(cuCtxCreate)
#else
  LOAD(cuCtxCreate_v2)
#endif
  CUdevice device = -1;
  CUcontext context = NULL;
  CUmodule module = NULL;
  CUfunction kernel = NULL;
  CUstream stream = NULL;
  char name[64];
  int sms = 0;
  EXPECT(cuInit_p(0), CUDA_SUCCESS);
  EXPECT(cuDeviceGet_p(&device, 0), CUDA_SUCCESS);
  EXPECT(cuDeviceGetName_p(name, sizeof name, device), CUDA_SUCCESS);
  EXPECT(cuDeviceGetAttribute_p(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device),
         CUDA_SUCCESS);
  printf("%s, %d SMs\n", name, sms);
  if (strcmp(name, "NVIDIA H200") != 0 || sms != 132) return 1;
#if CUDA_VERSION >= 13000
  EXPECT(cuCtxCreate_p(&context, NULL, 0, device), CUDA_SUCCESS);
#else
  EXPECT(cuCtxCreate_v2_p(&context, 0, device), CUDA_SUCCESS);
#endif
  EXPECT(cuCtxGetDevice_p(&device), CUDA_SUCCESS);
  EXPECT(cuModuleLoadData_p(&module, ptx), CUDA_SUCCESS);
  EXPECT(cuModuleGetFunction_p(&kernel, module, "nothing"), CUDA_ERROR_NOT_FOUND);
  EXPECT(cuModuleGetFunction_p(&kernel, module, "foreign"), CUDA_SUCCESS);
  EXPECT(cuStreamCreate_p(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  if (CopyAndTime(lib, stream, kernel) != 0) return 1;
  EXPECT(cuStreamDestroy_p(stream), CUDA_SUCCESS);
  EXPECT(cuCtxDestroy_p(context), CUDA_SUCCESS);
  EXPECT(cuCtxGetDevice_p(&device), CUDA_ERROR_INVALID_CONTEXT);
  return 0;
}
