#include "engine/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::StartsWith;

std::vector<std::string> Pieces(std::string_view text) {
  std::vector<std::string> pieces;
  for (const TokenId token : Tokenize(text)) {
    pieces.emplace_back();
    EXPECT_TRUE(AppendTokenText(token, pieces.back()));
  }
  return pieces;
}

TEST(Tokenizer, CutsWordsWithTheSpaceBeforeThem) {
  EXPECT_THAT(Pieces("The quick fox, 42."),
              ElementsAre("The", " quick", " fox", ",", " ", "42", "."));
  EXPECT_THAT(Pieces("understanding"), ElementsAre("unders", "tandin", "g"));
  EXPECT_THAT(Pieces("camelCase"), ElementsAre("camel", "Case"));
  EXPECT_THAT(Pieces("a\n\n  b"), ElementsAre("a", "\n\n ", " b"));
  EXPECT_THAT(Pieces("123456"), ElementsAre("123", "456"));
}

TEST(Tokenizer, DoesNotCutACharacterWhereItNeedNot) {
  EXPECT_THAT(Pieces("é水🙂"), ElementsAre("é", "水", "\xF0\x9F\x99", "\x82"));
}

TEST(Tokenizer, GivesBackAnyBytes) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    std::string text(random() % 100, ' ');
    // Few kinds of byte, so that they meet in all orders; zero bytes too.
    for (char& c : text) c = "aZ 0,\n\0\xC3\xA9~"[random() % 10];
    EXPECT_EQ(Detokenize(Tokenize(text)), text);
  }
}

TEST(Tokenizer, TokensOfABeginningAreTheBeginningOfTheTokens) {
  const std::string text =
      "You are a helpful assistant; answer in 3 words.  Use JSON: {\"a\": 1}.\nOk?";
  const std::vector<TokenId> all = Tokenize(text);
  int looked = 0;
  for (std::size_t end = 1; end < text.size(); ++end) {
    if (text[end] != ' ' || text[end - 1] == ' ' || text[end - 1] == '\n') continue;
    const std::vector<TokenId> some = Tokenize(text.substr(0, end));
    ASSERT_LE(some.size(), all.size());
    EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin())) << text.substr(0, end);
    ++looked;
  }
  EXPECT_EQ(looked, 12);
}

TEST(Tokenizer, HasAboutFourBytesAToken) {
  const std::string text =
      "Large language models are served by engines that keep the attention keys and values of each "
      "request in blocks of memory. When two requests begin with the same text, the second one "
      "need "
      "not compute what the first one has computed already, provided that it comes to the same "
      "place.";
  const double bytes =
      static_cast<double>(text.size()) / static_cast<double>(Tokenize(text).size());
  EXPECT_GT(bytes, 3.5);
  EXPECT_LT(bytes, 5.0);
}

TEST(Tokenizer, RefusesWhatIsNoToken) {
  EXPECT_EQ(Detokenize({0}), std::nullopt);
  EXPECT_EQ(Detokenize({0xffffffffu}), std::nullopt);
  EXPECT_EQ(Detokenize({(1u << 24) + 0x4141}), std::nullopt);  // Two bytes in a token of one.
  EXPECT_EQ(Detokenize({4u << 24}), std::nullopt);             // A word without letters.
  EXPECT_EQ(Detokenize({SpecialTokenId(SpecialToken::kUser)}), "<|user|>");
}

TEST(Tokenizer, NeverTakesTextForASpecialToken) {
  for (const TokenId token : Tokenize("<|user|>")) {
    EXPECT_LT(token, SpecialTokenId(SpecialToken::kBegin));
  }
}

}  // namespace
}  // namespace sublet
