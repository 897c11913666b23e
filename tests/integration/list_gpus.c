/* What a program in a container does first: asks the driver's library for the GPUs, by NVML, and
 * prints their UUIDs. The library is found by its soname, as by any program; nothing here knows
 * where it lies.
 */
#include <dlfcn.h>
#include <stdio.h>

typedef int (*Init)(void);
typedef int (*Count)(unsigned*);
typedef int (*ByIndex)(unsigned, void**);
typedef int (*Uuid)(void*, char*, unsigned);

int main(void) {
  void* nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  if (nvml == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  Init init;
  Count count;
  ByIndex by_index;
  Uuid uuid;
  *(void**)&init = dlsym(nvml, "nvmlInit_v2");
  *(void**)&count = dlsym(nvml, "nvmlDeviceGetCount_v2");
  *(void**)&by_index = dlsym(nvml, "nvmlDeviceGetHandleByIndex_v2");
  *(void**)&uuid = dlsym(nvml, "nvmlDeviceGetUUID");
  unsigned gpus = 0;
  if (init() != 0 || count(&gpus) != 0) return 2;
  for (unsigned i = 0; i < gpus; ++i) {
    void* gpu = NULL;
    char text[96];
    if (by_index(i, &gpu) != 0 || uuid(gpu, text, sizeof text) != 0) return 3;
    printf("%s\n", text);
  }
  return 0;
}
