#include "inventory/nvml_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

namespace sublet {
namespace {

using ::testing::HasSubstr;

Environment With(std::map<std::string, std::string> variables) {
  return [variables](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
}

TEST(FindNvml, TakesTheFlagThenTheVariableThenTheSimulationThenTheSystem) {
  const Environment all = With({{"SUBLET_NVML", "/a.so"}, {"SUBLET_SIM", "h200:1"}});
  EXPECT_EQ(FindNvml("/flag.so", all, "/opt/bin"), "/flag.so");
  EXPECT_EQ(FindNvml("", all, "/opt/bin"), "/a.so");
  EXPECT_EQ(FindNvml("", With({{"SUBLET_SIM", "h200:1"}}), "/opt/bin"),
            "/opt/bin/../lib/sublet-sim/libnvidia-ml.so.1");
  EXPECT_EQ(FindNvml("", With({}), "/opt/bin"), "libnvidia-ml.so.1");
}

TEST(NvmlLibrary, SaysWhatToDoWithoutADriver) {
  const auto library = NvmlLibrary::Open("/nowhere/libnvidia-ml.so.1");
  ASSERT_FALSE(library);
  EXPECT_EQ(library.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(library.error().message, HasSubstr("/nowhere/libnvidia-ml.so.1"));
  EXPECT_THAT(library.error().hint, HasSubstr("SUBLET_SIM"));
}

TEST(NvmlLibrary, RefusesALibraryThatIsNotNvml) {
  const auto library = NvmlLibrary::Open("libm.so.6");
  ASSERT_FALSE(library);
  EXPECT_EQ(library.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(library.error().message, HasSubstr("libm.so.6 does not export nvmlInit_v2"));
}

TEST(FromNvml, TurnsCodesIntoErrorsOfTheRightClass) {
  EXPECT_TRUE(FromNvml(nvml::kSuccess, "x"));
  const auto code = [](nvml::Return status) { return FromNvml(status, "x").error().code; };
  EXPECT_EQ(code(nvml::kNoPermission), ErrorCode::kPermission);
  EXPECT_EQ(code(nvml::kNotSupported), ErrorCode::kUnsupported);
  EXPECT_EQ(code(nvml::kNotFound), ErrorCode::kNotFound);
  EXPECT_EQ(code(nvml::kInUse), ErrorCode::kConflict);
  EXPECT_EQ(code(nvml::kGpuIsLost), ErrorCode::kUnavailable);
  EXPECT_EQ(code(nvml::kDriverNotLoaded), ErrorCode::kUnavailable);
  EXPECT_EQ(code(nvml::kUnknown), ErrorCode::kUnavailable);
}

TEST(FromNvml, NamesWhatWasDoneAndTheCode) {
  EXPECT_EQ(FromNvml(nvml::kInUse, "removing instance 7").error().message,
            "removing instance 7: in use (nvml 19)");
  EXPECT_EQ(FromNvml(static_cast<nvml::Return>(31), "x").error().message,
            "x: unknown error (nvml 31)");
}

}  // namespace
}  // namespace sublet
