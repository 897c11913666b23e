// measure/kernels/plain_kernels.cu
//
// The kernels of the workloads `small`, `big`, `mem` and `transfer`: no tensor cores, so that they
// run on any GPU that a driver of today still serves. measure/workload.h says what they are for.
//
// The build turns this file into PTX, which travels in the program and is compiled for the GPU by
// the driver that is there. It is plain CUDA C++ without NVIDIA's headers, so that clang alone can
// build it; what those would give is in lab_device.h.
#include "lab_device.h"

// ---- small, big
// ----------------------------------------------------------------------------------

// A chain of multiply-adds, each waiting for the one before: as long as few warps are on an SM, its
// time is the latency of `iterations` of them; with many, the arithmetic rate.
KERNEL void sublet_spin(float* out, u32 iterations) {
  float value = (float)ThreadX();
  for (u32 i = 0; i < iterations; i += 16) {
#pragma unroll
    for (int k = 0; k < 16; ++k) value = __builtin_fmaf(value, 0.9999f, 0.5f);
  }
  if (value == -1.0f) *out = value;  // Never; without it nothing would be computed.
}

// ---- mem
// -----------------------------------------------------------------------------------------

// Reads and writes every 16 bytes of the buffer once.
KERNEL void sublet_stream(uint4* data, u64 count) {
  const u64 step = (u64)BlockSize() * GridX();
  for (u64 i = (u64)BlockX() * BlockSize() + ThreadX(); i < count; i += step) {
    uint4 value = data[i];
    value.x += 1;
    value.y ^= value.x;
    value.z += 3;
    value.w ^= value.z;
    data[i] = value;
  }
}

// ---- transfer
// ------------------------------------------------------------------------------------

// `rounds` dependent multiply-adds on each value of a buffer.
KERNEL void sublet_scale(float* data, u64 count, u32 rounds) {
  const u64 step = (u64)BlockSize() * GridX();
  for (u64 i = (u64)BlockX() * BlockSize() + ThreadX(); i < count; i += step) {
    float value = data[i];
    for (u32 k = 0; k < rounds; k += 8) {
#pragma unroll
      for (int j = 0; j < 8; ++j) value = __builtin_fmaf(value, 0.999f, 0.001f);
    }
    data[i] = value;
  }
}

// ---- faults
// ---------------------------------------------------------------------------------------

// Writes where it must not.
KERNEL void sublet_poke(u64 address) {
  *(volatile u32*)address = 1;
}
