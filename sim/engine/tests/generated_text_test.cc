#include "engine/generated_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/tokenizer.h"

namespace sublet {
namespace {

std::vector<TokenId> Generated(std::uint64_t stream, int count) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(GeneratedToken(stream, i));
  return tokens;
}

TEST(GeneratedText, LooksLikeText) {
  EXPECT_THAT(*Detokenize(Generated(1, 24)),
              ::testing::MatchesRegex("[A-Z][a-z]*( [a-z]+)+\\. [A-Z][a-z]*( [a-z]+)+\\."));
}

TEST(GeneratedText, IsTheSameForTheSameStreamOnly) {
  EXPECT_EQ(Generated(1, 100), Generated(1, 100));
  EXPECT_NE(Generated(1, 100), Generated(2, 100));
}

TEST(GeneratedText, TokenizesToTheSameTokens) {
  for (std::uint64_t stream = 0; stream < 50; ++stream) {
    const std::vector<TokenId> tokens = Generated(stream, 100);
    EXPECT_EQ(Tokenize(*Detokenize(tokens)), tokens);
  }
}

}  // namespace
}  // namespace sublet
