// Our declarations against the header of the CUDA toolkit, where there is one.
#include <cuda.h>
#include <gtest/gtest.h>

#include "guard/copy_traffic.h"

namespace sublet::guard {
namespace {

#define EXPECT_SAME_PLACE(ours, our_member, theirs, their_member) \
  EXPECT_EQ(offsetof(ours, our_member), offsetof(theirs, their_member))

TEST(CudaHeader, RectanglesLieAsInTheHeader) {
  EXPECT_EQ(sizeof(Copy2D), sizeof(CUDA_MEMCPY2D));
  EXPECT_SAME_PLACE(Copy2D, source.memory_type, CUDA_MEMCPY2D, srcMemoryType);
  EXPECT_SAME_PLACE(Copy2D, source.device, CUDA_MEMCPY2D, srcDevice);
  EXPECT_SAME_PLACE(Copy2D, destination.memory_type, CUDA_MEMCPY2D, dstMemoryType);
  EXPECT_SAME_PLACE(Copy2D, destination.device, CUDA_MEMCPY2D, dstDevice);
  EXPECT_SAME_PLACE(Copy2D, width_bytes, CUDA_MEMCPY2D, WidthInBytes);
  EXPECT_SAME_PLACE(Copy2D, height, CUDA_MEMCPY2D, Height);
}

TEST(CudaHeader, BoxesLieAsInTheHeader) {
  EXPECT_EQ(sizeof(Copy3D), sizeof(CUDA_MEMCPY3D));
  EXPECT_SAME_PLACE(Copy3D, source.memory_type, CUDA_MEMCPY3D, srcMemoryType);
  EXPECT_SAME_PLACE(Copy3D, source.device, CUDA_MEMCPY3D, srcDevice);
  EXPECT_SAME_PLACE(Copy3D, destination.memory_type, CUDA_MEMCPY3D, dstMemoryType);
  EXPECT_SAME_PLACE(Copy3D, destination.device, CUDA_MEMCPY3D, dstDevice);
  EXPECT_SAME_PLACE(Copy3D, width_bytes, CUDA_MEMCPY3D, WidthInBytes);
  EXPECT_SAME_PLACE(Copy3D, depth, CUDA_MEMCPY3D, Depth);
}

}  // namespace
}  // namespace sublet::guard
