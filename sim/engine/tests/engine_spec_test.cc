#include "engine/engine_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet {
namespace {

using ::testing::ElementsAre;

TEST(EngineSpec, TakesWhatItIsToldAndLeavesTheRest) {
  EngineSpec defaults;
  ASSERT_TRUE(defaults.Set("kv-blocks", "1600"));
  const EngineSpec spec =
      *ParseEngineSpec(defaults, "name=a,gpu=g,sm=62.5,lora=x,lora=y,instant=1,replay-port=0");
  EXPECT_EQ(spec.server.engine.kv_blocks, 1600);
  EXPECT_EQ(spec.server.engine.share.sm_percent, 62.5);
  EXPECT_EQ(spec.server.name, "a");
  EXPECT_EQ(spec.gpu, "g");
  EXPECT_THAT(spec.server.loras, ElementsAre("x", "y"));
  EXPECT_TRUE(spec.server.instant);
  EXPECT_EQ(spec.replay_port, 0);
  EXPECT_EQ(spec.events_port, std::nullopt);
  EXPECT_EQ(spec.server.engine.block_tokens, EngineOptions().block_tokens);
}

TEST(EngineSpec, RefusesWhatMakesNoSense) {
  for (const char* bad :
       {"kv-blocks", "kv-blocks=", "kv-blocks=0", "kv-blocks=1.5", "kv-blocks=many", "port=65536",
        "sm=101", "sm=0", "prefill-rate=nan", "colour=red", "name="}) {
    EXPECT_EQ(ParseEngineSpec({}, bad).error().code, ErrorCode::kUsage) << bad;
  }
}

TEST(EngineSpec, KnowsAllThatItNames) {
  for (const EngineSetting& setting : EngineSpec::Settings()) {
    EngineSpec spec;
    EXPECT_TRUE(spec.Set(setting.name, "1")) << setting.name;
  }
}

}  // namespace
}  // namespace sublet
