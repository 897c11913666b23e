#include "kube/mig_step_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/files.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

MigStep Create(int start) {
  MigStep step;
  step.kind = MigStep::Kind::kCreate;
  step.gpu_uuid = "GPU-1";
  step.seat.profile_id = 19;
  step.seat.profile = "1g.10gb";
  step.seat.start = start;
  step.seat.size = 1;
  return step;
}

class MigStepFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "sublet-steps-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    path_ = root_ / "kube" / "mig-steps.json";
  }
  void TearDown() override { fs::remove_all(root_); }

  fs::path root_;
  std::string path_;
};

TEST_F(MigStepFileTest, WhatWasBegunIsLeftToWhoComesNext) {
  MigStepFile first(path_);
  EXPECT_THAT(first.Left().value(), IsEmpty());
  ASSERT_TRUE(first.WillDo(Create(0)));
  first.Done(Create(0));
  ASSERT_TRUE(first.WillDo(Create(1)));

  MigStepFile second(path_);
  const auto left = second.Left();
  ASSERT_TRUE(left) << left.error().message;
  ASSERT_THAT(*left, SizeIs(2));
  EXPECT_EQ(left->at(1).seat.start, 1);
  // Its own come after those.
  ASSERT_TRUE(second.WillDo(Create(2)));
  EXPECT_THAT(MigStepFile(path_).Left().value(), SizeIs(3));
  ASSERT_TRUE(second.Clear());
  ASSERT_TRUE(second.Clear());
  EXPECT_THAT(MigStepFile(path_).Left().value(), IsEmpty());
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(MigStepFileTest, WhatCantBeReadIsAnErrorAndReplaced) {
  fs::create_directories(root_ / "kube");
  ASSERT_TRUE(WriteFileAtomically(path_, "[{\"step\":"));
  MigStepFile file(path_);
  const auto left = file.Left();
  ASSERT_FALSE(left);
  EXPECT_EQ(left.error().code, ErrorCode::kInvalid);
  EXPECT_THAT(left.error().message, HasSubstr("mig-steps.json"));
  ASSERT_TRUE(file.WillDo(Create(0)));
  EXPECT_THAT(MigStepFile(path_).Left().value(), SizeIs(1));
}

TEST_F(MigStepFileTest, AStepThatCantBeWrittenIsntDone) {
  ASSERT_TRUE(WriteFileAtomically(root_ / "kube", "no folder"));
  EXPECT_FALSE(MigStepFile(path_).WillDo(Create(0)));
}

TEST_F(MigStepFileTest, WithoutAPathNothingIsWritten) {
  MigStepFile file("");
  ASSERT_TRUE(file.WillDo(Create(0)));
  EXPECT_THAT(file.Left().value(), IsEmpty());
  ASSERT_TRUE(file.Clear());
}

}  // namespace
}  // namespace sublet
