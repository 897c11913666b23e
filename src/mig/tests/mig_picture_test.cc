#include "mig/mig_picture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/tests/board_gpu.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

MigTarget Target(const Gpu& gpu, bool mig, std::vector<MigSeat> seats) {
  return *ResolveTarget(gpu, {.gpu_uuid = gpu.uuid, .mig = mig, .instances = std::move(seats)});
}

std::string Text(const Gpu& gpu, const MigTarget& target, const std::vector<std::string>& reasons,
                 bool colour = false) {
  const auto steps = *StepsBetween(gpu, target, {});
  return MigChangeText(gpu, target, steps, reasons, Painter(colour));
}

TEST(MigPicture, ShowsBeforeAfterStepsAndReasons) {
  Gpu gpu = GpuOfBoard("a100-80gb");
  SetInstances(
      Target(gpu, true, {{.profile = "3g.40gb", .start = 0}, {.profile = "1g.10gb", .start = 4}})
          .instances,
      gpu);
  const MigTarget target =
      Target(gpu, true, {{.profile = "2g.20gb", .start = 2}, {.profile = "1g.10gb", .start = 4}});
  EXPECT_EQ(Text(gpu, target, {"new: fits beside what stays", "stays: it is there already"}),
            "GPU 0  NVIDIA A100-SXM4-80GB  GPU-of-a100-80gb\n"
            "  unit    0       1       2       3       4       5       6       7\n"
            "  before |3g.40gb                        |1g.10gb| -     | -     | -     |\n"
            "  after  | -     | -     |2g.20gb        |1g.10gb| -     | -     | -     |\n"
            "     1  destroy 3g.40gb at 0, GPU instance 1\n"
            "     2  create 2g.20gb at 2\n"
            "  2g.20gb at 2  new: fits beside what stays\n"
            "  1g.10gb at 4  stays: it is there already\n");
}

TEST(MigPicture, SaysWhereMigIsOff) {
  const Gpu gpu = GpuOfBoard("a30");
  const std::string on = Text(gpu, Target(gpu, true, {}), {});
  EXPECT_THAT(on, HasSubstr("before MIG mode is off\n"));
  EXPECT_THAT(on, HasSubstr("after  | - | - | - | - |\n"));
  EXPECT_THAT(Text(gpu, Target(gpu, false, {}), {}),
              HasSubstr("  now    MIG mode is off\n    nothing to do\n"));
}

TEST(MigPicture, ColoursWhatGoesAndWhatComes) {
  Gpu gpu = GpuOfBoard("a30");
  SetInstances(Target(gpu, true, {{.profile = "2g.12gb", .start = 0}}).instances, gpu);
  const std::string text =
      Text(gpu, Target(gpu, true, {{.profile = "4g.24gb", .start = 0}}), {}, true);
  EXPECT_THAT(text, HasSubstr("\x1b[33m2g.12gb"));
  EXPECT_THAT(text, HasSubstr("\x1b[32m4g.24gb"));
  EXPECT_THAT(text, Not(HasSubstr("\x1b[33m4g.24gb")));
}

}  // namespace
}  // namespace sublet
