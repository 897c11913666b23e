#include "measure/cuda_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace sublet {
namespace {

using ::testing::HasSubstr;

Environment Of(const std::map<std::string, std::string>& values) {
  return [values](const char* name) -> std::optional<std::string> {
    const auto it = values.find(name);
    if (it == values.end()) return std::nullopt;
    return it->second;
  };
}

TEST(FindCuda, TakesTheFlagBeforeTheEnvironmentBeforeTheSimulation) {
  const Environment all = Of({{"SUBLET_CUDA", "/env.so"}, {"SUBLET_SIM", "h200"}});
  EXPECT_EQ(FindCuda("/flag.so", all, "/opt/bin"), "/flag.so");
  EXPECT_EQ(FindCuda("", all, "/opt/bin"), "/env.so");
  EXPECT_EQ(FindCuda("", Of({{"SUBLET_SIM", "h200"}}), "/opt/bin"),
            "/opt/bin/../lib/sublet-sim/libcuda.so.1");
  EXPECT_EQ(FindCuda("", Of({}), "/opt/bin"), "libcuda.so.1");
}

TEST(CudaLibrary, SaysWhatToDoWithoutADriver) {
  const Result<CudaLibrary> cuda = CudaLibrary::Open("/nowhere/libcuda.so.1");
  ASSERT_FALSE(cuda.has_value());
  EXPECT_EQ(cuda.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(cuda.error().message, HasSubstr("/nowhere/libcuda.so.1"));
  EXPECT_THAT(cuda.error().hint, HasSubstr("--sim"));
}

TEST(CudaLibrary, RefusesALibraryThatIsNone) {
  const Result<CudaLibrary> cuda = CudaLibrary::Open("libm.so.6");
  ASSERT_FALSE(cuda.has_value());
  EXPECT_EQ(cuda.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(cuda.error().message, HasSubstr("cuInit"));
}

}  // namespace
}  // namespace sublet
