#include "model/mig_target.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

ReportedProfile Profile(std::string name, int id, int slices, std::vector<Placement> placements) {
  ReportedProfile profile;
  profile.name = std::move(name);
  profile.id = id;
  profile.compute_slices = slices;
  profile.placements = std::move(placements);
  return profile;
}

Gpu FourSlices() {
  Gpu gpu;
  gpu.uuid = "GPU-1";
  gpu.product = "NVIDIA A30";
  gpu.mig_capable = gpu.mig_enabled = gpu.mig_pending = true;
  gpu.profiles = {Profile("4g.24gb", 0, 4, {{0, 4}}), Profile("2g.12gb", 5, 2, {{0, 2}, {2, 2}}),
                  Profile("1g.6gb", 14, 1, {{0, 1}, {1, 1}, {2, 1}, {3, 1}})};
  return gpu;
}

GpuInstance Instance(int id, int profile_id, std::string profile, Placement placement) {
  GpuInstance instance;
  instance.id = id;
  instance.profile_id = profile_id;
  instance.profile = std::move(profile);
  instance.placement = placement;
  return instance;
}

MigTarget Off(std::string uuid) {
  return {.gpu_uuid = std::move(uuid), .mig = false, .instances = {}};
}

MigTarget Wanting(std::vector<MigSeat> seats) {
  return {.gpu_uuid = "GPU-1", .mig = true, .instances = std::move(seats)};
}

Error ErrorOf(const Result<MigTarget>& target) {
  EXPECT_FALSE(target);
  return target ? Error{} : target.error();
}

TEST(MigTarget, FindsIdAndSizeOfAProfileByItsName) {
  const auto target = ResolveTarget(FourSlices(), Wanting({{.profile = "1g.6gb", .start = 3},
                                                           {.profile = "2g.12gb", .start = 0}}));
  ASSERT_TRUE(target) << target.error().message;
  EXPECT_THAT(target->instances,
              ElementsAre(MigSeat{.profile = "2g.12gb", .profile_id = 5, .start = 0, .size = 2},
                          MigSeat{.profile = "1g.6gb", .profile_id = 14, .start = 3, .size = 1}));
}

TEST(MigTarget, OneComputeInstanceOverAllIsTheSameAsNoneNamed) {
  const auto target = ResolveTarget(
      FourSlices(), Wanting({{.profile = "2g.12gb", .start = 0, .compute_slices = {{2}}},
                             {.profile = "2g.12gb", .start = 2, .compute_slices = {{1, 1}}}}));
  ASSERT_TRUE(target) << target.error().message;
  EXPECT_FALSE(target->instances[0].compute_slices);
  EXPECT_EQ(target->instances[1].compute_slices, (std::vector<int>{1, 1}));
}

TEST(MigTarget, RefusesWhatCanNotLieThere) {
  const Gpu gpu = FourSlices();
  const auto resolve = [&](std::vector<MigSeat> seats) {
    return ErrorOf(ResolveTarget(gpu, Wanting(std::move(seats))));
  };
  const Error start = resolve({{.profile = "2g.12gb", .start = 1}});
  EXPECT_EQ(start.code, ErrorCode::kInvalid);
  EXPECT_THAT(start.message, HasSubstr("2g.12gb can't begin at memory unit 1"));
  EXPECT_THAT(start.hint, HasSubstr("0, 2"));
  const Error overlap =
      resolve({{.profile = "2g.12gb", .start = 0}, {.profile = "1g.6gb", .start = 1}});
  EXPECT_THAT(overlap.message, HasSubstr("overlap"));
  const Error profile = resolve({{.profile = "1g.5gb", .start = 0}});
  EXPECT_EQ(profile.code, ErrorCode::kNotFound);
  EXPECT_THAT(profile.hint, HasSubstr("1g.6gb"));
  EXPECT_THAT(resolve({{.profile = "2g.12gb", .profile_id = 14, .start = 0}}).code,
              ErrorCode::kNotFound);
  EXPECT_THAT(resolve({{.profile = "2g.12gb", .start = 0, .compute_slices = {{2, 1}}}}).message,
              HasSubstr("has 2 compute slices"));
}

TEST(MigTarget, RefusesMigOnAGpuWithoutIt) {
  Gpu gpu;
  gpu.uuid = "GPU-1";
  EXPECT_EQ(ErrorOf(ResolveTarget(gpu, Wanting({}))).code, ErrorCode::kUnsupported);
  EXPECT_TRUE(ResolveTarget(gpu, Off("GPU-1")));
}

TEST(MigTarget, SaysWhatIsThere) {
  Gpu gpu = FourSlices();
  gpu.instances = {Instance(2, 5, "2g.12gb", {2, 2}), Instance(3, 14, "1g.6gb", {0, 1})};
  gpu.instances[0].compute_instances.resize(1);
  gpu.instances[0].compute_instances[0].placement = {0, 2};
  const auto target = CurrentTarget(gpu);
  ASSERT_TRUE(target) << target.error().message;
  ASSERT_THAT(target->instances, SizeIs(2));
  EXPECT_EQ(DescribeSeat(target->instances[0]), "1g.6gb at 0 (no compute instances)");
  EXPECT_EQ(DescribeSeat(target->instances[1]), "2g.12gb at 2");
}

TEST(MigTarget, DoesNotGuessPlacesThatTheDriverHides) {
  Gpu gpu = FourSlices();
  gpu.instances = {Instance(2, 0, "", {})};
  const Error error = ErrorOf(CurrentTarget(gpu));
  EXPECT_EQ(error.code, ErrorCode::kPermission);
  EXPECT_THAT(error.hint, HasSubstr("root"));
}

TEST(MigTarget, NamesTheProcessesThatUseAnInstance) {
  Gpu gpu = FourSlices();
  gpu.processes.resize(2);
  gpu.processes[0].pid = 7;
  gpu.processes[0].name = "python3";
  gpu.processes[0].gpu_instance = 2;
  gpu.processes[1].pid = 8;
  MigUse use = UseByProcesses(gpu);
  EXPECT_THAT(use.instances.at(2), ElementsAre("process 7 (python3)"));
  EXPECT_THAT(use.whole, ElementsAre("process 8"));
  use.Add({.instances = {{2, {"share s1"}}}, .whole = {}});
  EXPECT_THAT(use.instances.at(2), ElementsAre("process 7 (python3)", "share s1"));
  EXPECT_TRUE(MigUse{}.Idle());
}

TEST(MigTarget, ComesBackFromItsJson) {
  const std::vector<MigTarget> targets{Wanting({{.profile = "2g.12gb",
                                                 .profile_id = 5,
                                                 .start = 0,
                                                 .size = 2,
                                                 .compute_slices = {{1, 1}}},
                                                {.profile = "1g.6gb", .start = 3}}),
                                       Off("GPU-2")};
  const auto read = ParseMigTargets(MigTargetsToJson(targets).dump(), "body");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(*read, targets);
}

TEST(MigTarget, ReadsStrictly) {
  const auto message = [](std::string_view text) {
    const auto targets = ParseMigTargets(text, "body");
    EXPECT_FALSE(targets) << text;
    return targets ? std::string() : targets.error().message;
  };
  EXPECT_THAT(message(R"({"gpus":[{"uuid":"a","mig":true,"instance":[]}]})"),
              HasSubstr("unknown key"));
  EXPECT_THAT(message(R"({"gpus":[{"uuid":"a","mig":true},{"uuid":"a","mig":false}]})"),
              HasSubstr("twice"));
  EXPECT_THAT(
      message(R"({"gpus":[{"uuid":"a","mig":false,"instances":[{"profile":"x","start":0}]}]})"),
      HasSubstr("mig is false"));
  EXPECT_THAT(message(R"({"gpus":[{"uuid":"a","mig":true,"instances":[{"profile":"x"}]}]})"),
              HasSubstr("start"));
}

}  // namespace
}  // namespace sublet
