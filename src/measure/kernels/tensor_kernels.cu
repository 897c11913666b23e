// measure/kernels/tensor_kernels.cu
//
// The kernels of the workloads `gemm` and `transformer`: bf16 on tensor cores, for GPUs of compute
// capability 8.0 and above. measure/workload.h says what they are for; plain_kernels.cu, how they
// get into the program.
#include "lab_device.h"

namespace {

// ---- matrix products
// -----------------------------------------------------------------------------

// One block computes a BM x BN tile of C = A x B^T over a part of K. A is M x K and B is N x K,
// both bf16 by rows, so that both are read along K. The tile's slices go through shared memory in a
// ring of `kStages`, copied ahead of their use.
template <int BM, int BN, int WarpsM, int WarpsN, int Stages>
struct Tile {
  static constexpr int kM = BM;
  static constexpr int kN = BN;
  static constexpr int kK = 64;  // 128 bytes a row: one row of shared memory banks.
  static constexpr int kStages = Stages;
  static constexpr int kThreads = 32 * WarpsM * WarpsN;
  static constexpr int kWarpM = BM / WarpsM;
  static constexpr int kWarpN = BN / WarpsN;
  static constexpr int kWarpsN = WarpsN;
  static constexpr int kStageBytes = (BM + BN) * kK * 2;
};

// Copies `rows` x 64 values into shared memory. 16-byte chunks of a row are permuted by the row's
// number, so that the eight rows which a matrix load reads at once lie in different banks.
template <int Rows, int Threads>
DEVICE void CopySlice(u32 shared, const bf16* from, long stride) {
  for (int i = (int)ThreadX(); i < Rows * 8; i += Threads) {
    const int row = i / 8;
    const int chunk = i % 8;
    CopyAsync16(shared + (u32)(row * 128 + ((chunk ^ (row & 7)) << 4)),
                from + row * stride + chunk * 8);
  }
}

DEVICE u32 SliceAddress(u32 shared, int row, int chunk) {
  return shared + (u32)(row * 128 + ((chunk ^ (row & 7)) << 4));
}

// Multiplies one slice of 64 along K into the warp's accumulators.
template <typename T>
DEVICE void MultiplySlice(u32 slice_a, u32 slice_b, int warp_m, int warp_n,
                          float (&sums)[T::kWarpM / 16][T::kWarpN / 8][4]) {
  const int lane = (int)ThreadX() % 32;
#pragma unroll
  for (int k = 0; k < 4; ++k) {  // Steps of 16.
    u32 a[T::kWarpM / 16][4];
    u32 b[T::kWarpN / 8][2];
#pragma unroll
    for (int m = 0; m < T::kWarpM / 16; ++m) {
      const int row = warp_m * T::kWarpM + m * 16 + lane % 16;
      LoadMatrix4(a[m], SliceAddress(slice_a, row, k * 2 + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < T::kWarpN / 8; ++n) {
      const int row = warp_n * T::kWarpN + n * 8 + lane % 8;
      LoadMatrix2(b[n], SliceAddress(slice_b, row, k * 2 + lane / 8 % 2));
    }
#pragma unroll
    for (int m = 0; m < T::kWarpM / 16; ++m) {
#pragma unroll
      for (int n = 0; n < T::kWarpN / 8; ++n) MultiplyAdd(sums[m][n], a[m], b[n]);
    }
  }
}

// What becomes of the products.
enum class Finish { kStore, kStoreGelu, kAddTo };

DEVICE float Gelu(float x) {
  // tanh form; tanh(y) = 1 - 2 / (1 + e^2y).
  const float y = 0.7978845608f * (x + 0.044715f * x * x * x);
  return 0.5f * x * (2.0f - 2.0f / (1.0f + Exp(2.0f * y)));
}

template <typename T, Finish kFinish>
DEVICE void StoreTile(void* c, int columns, int row0, int column0,
                      float (&sums)[T::kWarpM / 16][T::kWarpN / 8][4]) {
  const int lane = (int)ThreadX() % 32;
#pragma unroll
  for (int m = 0; m < T::kWarpM / 16; ++m) {
#pragma unroll
    for (int n = 0; n < T::kWarpN / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const long row = row0 + m * 16 + half * 8 + lane / 4;
        const long at = row * columns + column0 + n * 8 + lane % 4 * 2;
        float x = sums[m][n][half * 2];
        float y = sums[m][n][half * 2 + 1];
        if constexpr (kFinish == Finish::kAddTo) {
          AddAtomically((float*)c + at, x);
          AddAtomically((float*)c + at + 1, y);
        } else {
          if constexpr (kFinish == Finish::kStoreGelu) {
            x = Gelu(x);
            y = Gelu(y);
          }
          *(u32*)((bf16*)c + at) = PackBf16(x, y);
        }
      }
    }
  }
}

// Block (x, y, z): tile x along N, y along M, part z of K.
template <typename T, Finish kFinish>
DEVICE void Multiply(const bf16* a, const bf16* b, void* c, int columns, int depth,
                     int depth_of_part) {
  const u32 shared = DynamicShared();
  const int warp = (int)ThreadX() / 32;
  const int warp_m = warp / T::kWarpsN;
  const int warp_n = warp % T::kWarpsN;
  const int row0 = (int)BlockY() * T::kM;
  const int column0 = (int)BlockX() * T::kN;
  const long k0 = (long)BlockZ() * depth_of_part;
  const bf16* const from_a = a + (long)row0 * depth + k0;
  const bf16* const from_b = b + (long)column0 * depth + k0;
  const int slices = depth_of_part / T::kK;

  const auto fetch = [&](int slice) {
    if (slice < slices) {
      const u32 stage = shared + (u32)(slice % T::kStages * T::kStageBytes);
      CopySlice<T::kM, T::kThreads>(stage, from_a + slice * T::kK, depth);
      CopySlice<T::kN, T::kThreads>(stage + T::kM * 128, from_b + slice * T::kK, depth);
    }
    CommitCopies();  // An empty group too, so that the count of groups stays that of slices.
  };

  float sums[T::kWarpM / 16][T::kWarpN / 8][4] = {};
  for (int slice = 0; slice < T::kStages - 1; ++slice) fetch(slice);
  for (int slice = 0; slice < slices; ++slice) {
    AwaitCopies<T::kStages - 2>();
    Barrier();
    fetch(slice + T::kStages - 1);
    const u32 stage = shared + (u32)(slice % T::kStages * T::kStageBytes);
    MultiplySlice<T>(stage, stage + T::kM * 128, warp_m, warp_n, sums);
  }
  StoreTile<T, kFinish>(c, columns, row0 + warp_m * T::kWarpM, column0 + warp_n * T::kWarpN, sums);
}

using WideTile = Tile<128, 128, 2, 4, 3>;
using Narrow64 = Tile<64, 64, 4, 1, 3>;
using Narrow32 = Tile<64, 32, 4, 1, 3>;

// The sum of a value over the warp's lanes, in all of them.
DEVICE float WarpSum(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += ShuffleXor(value, step);
  return value;
}

}  // namespace

// ---- gemm
// ----------------------------------------------------------------------------------------

// C = A x B^T, bf16, `columns` x `depth` multiples of 128 and 64. Grid (N / 128, M / 128).
KERNEL void sublet_gemm(const bf16* a, const bf16* b, bf16* c, int columns, int depth) {
  Multiply<WideTile, Finish::kStore>(a, b, c, columns, depth, depth);
}

// ---- transformer: 64 tokens
// ----------------------------------------------------------------------

// h = A x W^T for all 64 tokens. Grid (N / 64): for a part of the GPU; or (N / 32): for all of it.
KERNEL void sublet_project_64(const bf16* a, const bf16* w, bf16* h, int columns, int depth) {
  Multiply<Narrow64, Finish::kStore>(a, w, h, columns, depth, depth);
}
KERNEL void sublet_project_32(const bf16* a, const bf16* w, bf16* h, int columns, int depth) {
  Multiply<Narrow32, Finish::kStore>(a, w, h, columns, depth, depth);
}
KERNEL void sublet_project_gelu_64(const bf16* a, const bf16* w, bf16* h, int columns, int depth) {
  Multiply<Narrow64, Finish::kStoreGelu>(a, w, h, columns, depth, depth);
}
KERNEL void sublet_project_gelu_32(const bf16* a, const bf16* w, bf16* h, int columns, int depth) {
  Multiply<Narrow32, Finish::kStoreGelu>(a, w, h, columns, depth, depth);
}

// x += A x W^T, fp32, in `GridZ` parts of K that add up. Grid (N / 64, 1, parts).
KERNEL void sublet_project_add(const bf16* a, const bf16* w, float* x, int columns, int depth) {
  Multiply<Narrow64, Finish::kAddTo>(a, w, x, columns, depth, depth / (int)GridZ());
}

// x = the input, as fp32.
KERNEL void sublet_embed(const bf16* input, float* x, u32 count) {
  const u32 i = BlockX() * BlockSize() + ThreadX();
  if (i < count) x[i] = UnpackBf16(input[i]);
}

// h = (x - mean) / deviation by rows of 768; a warp a row.
KERNEL void sublet_layer_norm(const float* x, bf16* h) {
  constexpr int kWidth = 768;
  const u32 row = (BlockX() * BlockSize() + ThreadX()) / 32;
  const u32 lane = ThreadX() % 32;
  float values[kWidth / 32];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kWidth / 32; ++i) {
    values[i] = x[row * kWidth + (u32)i * 32 + lane];
    sum += values[i];
  }
  const float mean = WarpSum(sum) / kWidth;
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kWidth / 32; ++i) squares += (values[i] - mean) * (values[i] - mean);
  const float scale = ReciprocalRoot(WarpSum(squares) / kWidth + 1e-5f);
#pragma unroll
  for (int i = 0; i < kWidth / 32; ++i) {
    h[row * kWidth + (u32)i * 32 + lane] = PackBf16((values[i] - mean) * scale);
  }
}

// One head a block: softmax(Q K^T / 8) V for 64 tokens of 64 values, 16 tokens a warp. `qkv` is
// 64 x 2304: queries, keys, values of 12 heads.
KERNEL void sublet_attention(const bf16* qkv, bf16* out) {
  constexpr int kStride = 2304;
  constexpr int kSliceBytes = 64 * 128;
  const u32 shared = DynamicShared();
  const int head = (int)BlockX();
  const int lane = (int)ThreadX() % 32;
  const int warp = (int)ThreadX() / 32;
  for (int part = 0; part < 3; ++part) {
    CopySlice<64, 128>(shared + (u32)(part * kSliceBytes), qkv + part * 768 + head * 64, kStride);
  }
  CommitCopies();
  AwaitCopies<0>();
  Barrier();

  using Scores = Tile<64, 64, 4, 1, 1>;
  float scores[1][8][4] = {};
  MultiplySlice<Scores>(shared, shared + kSliceBytes, warp, 0, scores);

  // A row of scores lies in four neighbouring lanes.
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = scores[0][0][half * 2];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      largest = Max(largest, Max(scores[0][n][half * 2], scores[0][n][half * 2 + 1]));
    }
    largest = Max(largest, ShuffleXor(largest, 1));
    largest = Max(largest, ShuffleXor(largest, 2));
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& score = scores[0][n][half * 2 + i];
        score = Exp((score - largest) * 0.125f);
        sum += score;
      }
    }
    sum += ShuffleXor(sum, 1);
    sum += ShuffleXor(sum, 2);
    inverse[half] = 1.0f / sum;
  }

  // The scores' places are those that the next product wants of its left side.
  const u32 values = shared + 2 * kSliceBytes;
  float sums[8][4] = {};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const u32 a[4] = {PackBf16(scores[0][k * 2][0], scores[0][k * 2][1]),
                      PackBf16(scores[0][k * 2][2], scores[0][k * 2][3]),
                      PackBf16(scores[0][k * 2 + 1][0], scores[0][k * 2 + 1][1]),
                      PackBf16(scores[0][k * 2 + 1][2], scores[0][k * 2 + 1][3])};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      u32 b[2];
      LoadMatrix2Transposed(b, SliceAddress(values, k * 16 + lane % 16, n));
      MultiplyAdd(sums[n], a, b);
    }
  }
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp * 16 + half * 8 + lane / 4;
      *(u32*)(out + row * 768 + head * 64 + n * 8 + lane % 4 * 2) =
          PackBf16(sums[n][half * 2] * inverse[half], sums[n][half * 2 + 1] * inverse[half]);
    }
  }
}

// ---- random numbers
// -------------------------------------------------------------------------------

// Values spread evenly over -scale .. scale, the same for the same seed.
KERNEL void sublet_fill(bf16* data, u64 count, u32 seed, float scale) {
  const u64 step = (u64)BlockSize() * GridX();
  for (u64 i = (u64)BlockX() * BlockSize() + ThreadX(); i < count; i += step) {
    // Two rounds of a multiply-xorshift mix.
    u32 bits = (u32)i * 2654435761u + seed;
    bits = (bits ^ (bits >> 16)) * 0x7feb352du;
    bits = (bits ^ (bits >> 15)) * 0x846ca68bu;
    bits ^= bits >> 16;
    data[i] = PackBf16(((float)bits * (2.0f / 4294967296.0f) - 1.0f) * scale);
  }
}
