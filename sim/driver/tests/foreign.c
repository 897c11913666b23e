// A program of somebody else's: it knows NVML's header and nothing of Sublet. It opens the library,
// walks over the GPUs, cuts the first that has MIG, looks at the result and cleans up.
//
// Built against the real nvml.h where there is one (HAVE_NVML_H), else against the few prototypes
// below. Prints one line for each step; the exit status is 0 when all went as on hardware.
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#ifdef HAVE_NVML_H
#include <nvml.h>
#else
typedef int nvmlReturn_t;
typedef struct nvmlDevice_st* nvmlDevice_t;
typedef struct nvmlGpuInstance_st* nvmlGpuInstance_t;
typedef struct nvmlComputeInstance_st* nvmlComputeInstance_t;
typedef struct {
  unsigned long long total, free, used;
} nvmlMemory_t;
typedef struct {
  unsigned int id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount, copyEngineCount,
      decoderCount, encoderCount, jpegCount, ofaCount;
  unsigned long long memorySizeMB;
} nvmlGpuInstanceProfileInfo_t;
#define NVML_SUCCESS 0
#define NVML_ERROR_IN_USE 19
#define NVML_ERROR_INSUFFICIENT_RESOURCES 23
#define NVML_GPU_INSTANCE_PROFILE_1_SLICE 0x0
#endif

// Declares `name` as a pointer to the exported function.
#define LOAD(name, ...)                           \
  nvmlReturn_t (*name)(__VA_ARGS__);              \
  *(void**)&name = dlsym(library, symbol_##name); \
  if (name == NULL) {                             \
    printf("not exported: %s\n", symbol_##name);  \
    return 1;                                     \
  }
#define EXPECT(call, code)            \
  do {                                \
    const int got = (int)(call);      \
    printf("%s -> %d\n", #call, got); \
    if (got != (code)) return 1;      \
  } while (0)

static const char symbol_init[] = "nvmlInit_v2";
static const char symbol_stop[] = "nvmlShutdown";
static const char symbol_count[] = "nvmlDeviceGetCount_v2";
static const char symbol_by_index[] = "nvmlDeviceGetHandleByIndex_v2";
static const char symbol_get_name[] = "nvmlDeviceGetName";
static const char symbol_memory_info[] = "nvmlDeviceGetMemoryInfo";
static const char symbol_set_mig[] = "nvmlDeviceSetMigMode";
static const char symbol_profile_info[] = "nvmlDeviceGetGpuInstanceProfileInfo";
static const char symbol_create[] = "nvmlDeviceCreateGpuInstance";
static const char symbol_create_compute[] = "nvmlGpuInstanceCreateComputeInstance";
static const char symbol_destroy_compute[] = "nvmlComputeInstanceDestroy";
static const char symbol_destroy[] = "nvmlGpuInstanceDestroy";
static const char symbol_mig_device[] = "nvmlDeviceGetMigDeviceHandleByIndex";

static int Walk(void* library) {
  LOAD(count, unsigned int*)
  LOAD(by_index, unsigned int, nvmlDevice_t*)
  LOAD(get_name, nvmlDevice_t, char*, unsigned int)
  LOAD(memory_info, nvmlDevice_t, nvmlMemory_t*)
  unsigned int gpus = 0;
  EXPECT(count(&gpus), NVML_SUCCESS);
  for (unsigned int i = 0; i < gpus; ++i) {
    nvmlDevice_t device = NULL;
    nvmlMemory_t memory;
    char name[96];
    EXPECT(by_index(i, &device), NVML_SUCCESS);
    EXPECT(get_name(device, name, sizeof name), NVML_SUCCESS);
    EXPECT(memory_info(device, &memory), NVML_SUCCESS);
    printf("%u: %s, %llu MiB\n", i, name, memory.total >> 20);
    if (memory.total != memory.free + memory.used) return 1;
  }
  return gpus == 2 ? 0 : 1;
}

static int Cut(void* library) {
  LOAD(by_index, unsigned int, nvmlDevice_t*)
  LOAD(get_name, nvmlDevice_t, char*, unsigned int)
  LOAD(set_mig, nvmlDevice_t, unsigned int, nvmlReturn_t*)
  LOAD(profile_info, nvmlDevice_t, unsigned int, nvmlGpuInstanceProfileInfo_t*)
  LOAD(create, nvmlDevice_t, unsigned int, nvmlGpuInstance_t*)
  LOAD(create_compute, nvmlGpuInstance_t, unsigned int, nvmlComputeInstance_t*)
  LOAD(destroy_compute, nvmlComputeInstance_t)
  LOAD(destroy, nvmlGpuInstance_t)
  LOAD(mig_device, nvmlDevice_t, unsigned int, nvmlDevice_t*)
  nvmlDevice_t device = NULL;
  nvmlDevice_t mig = NULL;
  nvmlReturn_t activation = NVML_SUCCESS;
  nvmlGpuInstanceProfileInfo_t profile;
  nvmlGpuInstance_t instances[8];
  nvmlComputeInstance_t compute = NULL;
  char name[96];
  EXPECT(by_index(0, &device), NVML_SUCCESS);
  EXPECT(set_mig(device, 1, &activation), NVML_SUCCESS);
  EXPECT(activation, NVML_SUCCESS);
  EXPECT(profile_info(device, NVML_GPU_INSTANCE_PROFILE_1_SLICE, &profile), NVML_SUCCESS);
  printf("profile %u, %u times, %llu MiB\n", profile.id, profile.instanceCount,
         profile.memorySizeMB);
  for (unsigned int i = 0; i < profile.instanceCount; ++i) {
    EXPECT(create(device, profile.id, &instances[i]), NVML_SUCCESS);
  }
  EXPECT(create(device, profile.id, &instances[7]), NVML_ERROR_INSUFFICIENT_RESOURCES);
  EXPECT(create_compute(instances[0], 0, &compute), NVML_SUCCESS);
  EXPECT(mig_device(device, 0, &mig), NVML_SUCCESS);
  EXPECT(get_name(mig, name, sizeof name), NVML_SUCCESS);
  printf("%s\n", name);
  if (strstr(name, "MIG 1g") == NULL) return 1;
  EXPECT(destroy(instances[0]), NVML_ERROR_IN_USE);
  EXPECT(destroy_compute(compute), NVML_SUCCESS);
  for (unsigned int i = 0; i < profile.instanceCount; ++i) {
    EXPECT(destroy(instances[i]), NVML_SUCCESS);
  }
  EXPECT(set_mig(device, 0, &activation), NVML_SUCCESS);
  EXPECT(activation, NVML_SUCCESS);
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  void* library = dlopen(argv[1], RTLD_NOW);
  if (library == NULL) {
    printf("%s\n", dlerror());
    return 1;
  }
  LOAD(init, void)
  LOAD(stop, void)
  EXPECT(init(), NVML_SUCCESS);
  if (Walk(library) != 0 || Cut(library) != 0) return 1;
  EXPECT(stop(), NVML_SUCCESS);
  return dlclose(library);
}
