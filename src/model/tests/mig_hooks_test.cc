#include "model/mig_hooks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr const char* kExample = R"(
version: v1
hooks:
  apply-start:
    - workdir: /etc/mig
      command: /bin/bash
      args: ["-c", "stop services"]
      envs: {LEVEL: "2"}
    - command: "true"
  apply-exit:
    - command: start-services
)";

Error ErrorOf(std::string_view text) {
  const auto hooks = ParseMigHooks(text, "hooks.yaml");
  EXPECT_FALSE(hooks);
  return hooks ? Error{} : hooks.error();
}

TEST(MigHooks, ReadsCommandsInTheirOrder) {
  const auto hooks = ParseMigHooks(kExample, "hooks.yaml");
  ASSERT_TRUE(hooks) << hooks.error().message;
  const auto& start = hooks->At(MigHookPoint::kApplyStart);
  ASSERT_THAT(start, SizeIs(2));
  EXPECT_EQ(start[0].command, "/bin/bash");
  EXPECT_THAT(start[0].args, ElementsAre("-c", "stop services"));
  EXPECT_EQ(start[0].envs.at("LEVEL"), "2");
  EXPECT_EQ(start[0].workdir, "/etc/mig");
  EXPECT_EQ(start[1].command, "true");
  EXPECT_THAT(hooks->At(MigHookPoint::kPreApplyMode), IsEmpty());
  EXPECT_THAT(hooks->At(MigHookPoint::kApplyExit), SizeIs(1));
}

TEST(MigHooks, ProposesTheHookThatWasMeant) {
  const Error error = ErrorOf("version: v1\nhooks:\n  pre-aply-mode:\n    - command: x\n");
  EXPECT_EQ(error.code, ErrorCode::kInvalid);
  EXPECT_THAT(error.message, HasSubstr("hooks.yaml:3:"));
  EXPECT_THAT(error.hint, HasSubstr("pre-apply-mode"));
}

TEST(MigHooks, RefusesWhatCanNotBeRun) {
  EXPECT_THAT(ErrorOf("version: v1\nhooks: {apply-start: [{args: [a]}]}").message,
              HasSubstr("command"));
  EXPECT_THAT(ErrorOf("version: v1\nhooks: {apply-start: [{command: ''}]}").message,
              HasSubstr("empty"));
  EXPECT_THAT(
      ErrorOf("version: v1\nhooks: {apply-start: [{command: x, envs: {'A=B': c}}]}").message,
      HasSubstr("variable"));
  EXPECT_THAT(ErrorOf("version: v2\nhooks: {}").message, HasSubstr("v2"));
  EXPECT_THAT(ErrorOf("hooks: {}").message, HasSubstr("version"));
}

}  // namespace
}  // namespace sublet
