#include "route/distinction.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <vector>

#include "route/ranking.h"

namespace sublet {
namespace {

// A text prompt whose chain begins with `common` blocks of `group` and goes on by itself.
RequestPrefix Text(std::uint64_t group, std::size_t common, std::uint64_t own) {
  RequestPrefix prefix;
  for (std::size_t b = 0; b < common; ++b) prefix.text.push_back(MixBits(group * 1000 + b + 1));
  for (std::size_t b = 0; b < 5; ++b) prefix.text.push_back(MixBits(own * 77'777 + b + 1));
  prefix.text_bytes = prefix.text.size() * kTextBlockBytes;
  return prefix;
}

TEST(Distinction, PassesOverWhatEverybodySends) {
  Distinction distinction;
  std::set<std::uint64_t> late;
  for (std::uint64_t request = 0; request < 1000; ++request) {
    const std::uint64_t key = distinction.KeyOf(Text(1, 3, request), 8);
    if (request >= 500) late.insert(key);
  }
  EXPECT_EQ(late.size(), 500u);
}

TEST(Distinction, GroupsKeepAKeyEach) {
  Distinction distinction;
  std::set<std::uint64_t> late;
  for (std::uint64_t request = 0; request < 5000; ++request) {
    const std::uint64_t key = distinction.KeyOf(Text(request % 50 + 1, 20, request), 8);
    if (request >= 2500) late.insert(key);
  }
  // Fifty groups on eight replicas: each is a fiftieth, less than half of an eighth.
  EXPECT_EQ(late.size(), 50u);
}

TEST(Distinction, AGroupThatIsTooLargeForOneReplicaIsSplit) {
  Distinction distinction;
  std::set<std::uint64_t> late;
  for (std::uint64_t request = 0; request < 2000; ++request) {
    const std::uint64_t key = distinction.KeyOf(Text(request % 2 + 1, 4, request), 8);
    if (request >= 1000) late.insert(key);
  }
  EXPECT_GT(late.size(), 500u);
}

TEST(Distinction, SkipsWhatIsHeldEverywhere) {
  Distinction distinction;
  const RequestPrefix prefix = Text(1, 10, 5);
  EXPECT_EQ(distinction.KeyOf(prefix, 8, 4 * kTextBlockBytes), prefix.text[4]);
  EXPECT_EQ(distinction.KeyOf(prefix, 8, 1'000'000), prefix.text.back());
}

TEST(Distinction, TokenPromptsOfEqualLengthDiffer) {
  Distinction distinction;
  RequestPrefix a;
  a.token_ids.resize(1000);
  std::iota(a.token_ids.begin(), a.token_ids.end(), 0u);
  RequestPrefix b = a;
  b.token_ids[3] = 99;
  EXPECT_NE(distinction.KeyOf(a, 8), distinction.KeyOf(b, 8));
  EXPECT_EQ(distinction.KeyOf(a, 8), distinction.KeyOf(a, 8));
}

TEST(Distinction, TokenPromptsPassOverWhatEverybodySends) {
  Distinction distinction;
  std::set<std::uint64_t> late;
  for (TokenId request = 0; request < 500; ++request) {
    RequestPrefix prefix;
    prefix.token_ids.assign(512, 7);  // Block 0 of the conversation trace.
    prefix.token_ids.resize(1024, request + 100);
    const std::uint64_t key = distinction.KeyOf(prefix, 8);
    if (request >= 250) late.insert(key);
  }
  EXPECT_EQ(late.size(), 250u);
}

TEST(Distinction, KnowsALongCommonBeginningAfterSomeRequests) {
  Distinction distinction;
  for (TokenId request = 0; request < 60; ++request) {
    RequestPrefix prefix;
    prefix.token_ids.assign(12'000, 7);  // Instructions and tools of an agent.
    prefix.token_ids.resize(13'000, request + 100);
    const Beginning beginning = distinction.BeginningOf(prefix, 8);
    if (request < 30) continue;
    EXPECT_LE(beginning.common, 12'000u);
    EXPECT_GT(beginning.common, 12'000u * 4 / 5);
  }
  Distinction of_text;
  for (std::uint64_t request = 0; request < 60; ++request) {
    const Beginning beginning = of_text.BeginningOf(Text(1, 200, request), 8);
    if (request < 30) continue;
    EXPECT_LE(beginning.common, 200 * kTextBlockBytes);
    EXPECT_GT(beginning.common, 200 * kTextBlockBytes * 4 / 5);
  }
}

TEST(Distinction, TakesNoPromptOfItsOwnForCommon) {
  Distinction distinction;
  for (std::uint64_t request = 0; request < 500; ++request) {
    EXPECT_EQ(distinction.BeginningOf(Text(request + 1, 10, request), 8).common, 0u);
  }
}

TEST(Distinction, APromptWithoutBlocksHasNone) {
  Distinction distinction;
  EXPECT_EQ(distinction.KeyOf({}, 8), 0u);
}

TEST(Distinction, SurvivesMoreBeginningsThanItKeeps) {
  Distinction distinction;
  for (std::uint64_t request = 0; request < 100'000; ++request) {
    const RequestPrefix prefix = Text(request + 1, 2, request);
    EXPECT_EQ(distinction.KeyOf(prefix, 8), prefix.text[0]);
  }
}

}  // namespace
}  // namespace sublet
