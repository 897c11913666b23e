#include "proxy/model_alias.h"

#include <gtest/gtest.h>

namespace sublet {
namespace {

const ModelAliases kAliases{{"gpt-4o", "org/llama"}, {"b", "c"}};

std::string Applied(std::string body) {
  ApplyAliases(kAliases, body);
  return body;
}

TEST(ModelAlias, ChangesTheNameAlone) {
  EXPECT_EQ(Applied(R"({"model":"gpt-4o","n":1})"), R"({"model":"org/llama","n":1})");
  EXPECT_EQ(Applied(R"( { "n" : [1, {}], "model" : "gpt-4o" } )"),
            R"( { "n" : [1, {}], "model" : "org/llama" } )");
  EXPECT_EQ(Applied(R"({"model":"b"})"), R"({"model":"c"})");
}

TEST(ModelAlias, LeavesWhatIsNoAlias) {
  for (const char* body : {R"({"model":"llama"})",
                           R"({"model":""})",
                           R"({"model":7})",
                           R"({"model":null})",
                           "{}",
                           "",
                           R"({"messages":[{"model":"gpt-4o"}]})",
                           R"({"x":{"model":"gpt-4o"}})",
                           R"({"user":"model","gpt-4o":1})",
                           R"({"x":"\"model\":\"gpt-4o\""})",
                           R"(["model","gpt-4o"])",
                           R"({"model":"gpt-\u0034o"})",
                           R"("model")",
                           R"({"model")",
                           R"({"model":)",
                           R"({"model":"gpt-4o)",
                           R"({"model":"gpt-4o\)",
                           R"({"model" "gpt-4o"})",
                           R"({}{"model":"gpt-4o"})",
                           R"(x{"model":"gpt-4o"})"}) {
    EXPECT_EQ(Applied(body), body);
  }
}

TEST(ModelAlias, TakesTheLastOfTwo) {
  EXPECT_EQ(Applied(R"({"model":"gpt-4o","model":"b"})"), R"({"model":"gpt-4o","model":"c"})");
  EXPECT_EQ(Applied(R"({"model":"gpt-4o","model":"x"})"), R"({"model":"gpt-4o","model":"x"})");
}

TEST(ModelAlias, IsQuickInALongPrompt) {
  const std::string prompt(std::size_t{8} << 20, 'x');
  const std::string body = R"({"prompt":")" + prompt + R"(","model":"b"})";
  EXPECT_EQ(Applied(body), R"({"prompt":")" + prompt + R"(","model":"c"})");
}

}  // namespace
}  // namespace sublet
