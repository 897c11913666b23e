// measure/kernels/lab_device.h
//
// What NVIDIA's headers would give to a kernel, as far as the lab's kernels use it. Only for the
// kernels in this folder. Each function is one instruction of PTX; the names of those are in its
// manual
// ("Parallel Thread Execution ISA", chapter 9).
#pragma once

#define KERNEL extern "C" __attribute__((global))
#define DEVICE static inline __attribute__((device, always_inline))

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

// The upper half of a float, as a type of its own.
struct bf16 {
  u16 bits;
};

struct alignas(16) uint4 {
  u32 x, y, z, w;
};

DEVICE u32 ThreadX() {
  return __nvvm_read_ptx_sreg_tid_x();
}
DEVICE u32 BlockX() {
  return __nvvm_read_ptx_sreg_ctaid_x();
}
DEVICE u32 BlockY() {
  return __nvvm_read_ptx_sreg_ctaid_y();
}
DEVICE u32 BlockZ() {
  return __nvvm_read_ptx_sreg_ctaid_z();
}
DEVICE u32 BlockSize() {
  return __nvvm_read_ptx_sreg_ntid_x();
}
DEVICE u32 GridX() {
  return __nvvm_read_ptx_sreg_nctaid_x();
}
DEVICE u32 GridZ() {
  return __nvvm_read_ptx_sreg_nctaid_z();
}

DEVICE void Barrier() {
  asm volatile("bar.sync 0;" ::: "memory");
}

extern __attribute__((shared)) uint4 lab_shared[];  // Its size is given at the launch.

// The address of the block's shared memory, as the instructions below take it.
DEVICE u32 DynamicShared() {
  u32 address;
  asm("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }"
      : "=r"(address)
      : "l"((void*)lab_shared));
  return address;
}

DEVICE void CopyAsync16(u32 shared, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
}
DEVICE void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
DEVICE void AwaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four, or two, 8 x 8 matrices of 16-bit values from rows of shared memory.
DEVICE void LoadMatrix4(u32 (&out)[4], u32 shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared)
               : "memory");
}
DEVICE void LoadMatrix2(u32 (&out)[2], u32 shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(out[0]), "=r"(out[1])
               : "r"(shared)
               : "memory");
}
DEVICE void LoadMatrix2Transposed(u32 (&out)[2], u32 shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(out[0]), "=r"(out[1])
               : "r"(shared)
               : "memory");
}

// sums (16 x 8, fp32) += a (16 x 16) x b (16 x 8), bf16.
DEVICE void MultiplyAdd(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE float ShuffleXor(float value, int lanes) {
  float other;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;"
               : "=f"(other)
               : "f"(value), "r"(lanes));
  return other;
}

DEVICE void AddAtomically(float* to, float value) {
  asm volatile("red.global.add.f32 [%0], %1;" ::"l"(to), "f"(value) : "memory");
}

DEVICE float Exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950409f));
  return y;
}
DEVICE float ReciprocalRoot(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float Max(float a, float b) {
  return a > b ? a : b;
}

// Rounds to nearest even; `low` goes into the lower half.
DEVICE u32 PackBf16(float low, float high) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
DEVICE bf16 PackBf16(float value) {
  return {(u16)PackBf16(value, 0.0f)};
}
DEVICE float UnpackBf16(bf16 value) {
  const u32 bits = (u32)value.bits << 16;
  return __builtin_bit_cast(float, bits);
}
