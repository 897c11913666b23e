#include "engine/generated_text.h"

#include <array>
#include <string_view>

#include "engine/tokenizer.h"

namespace sublet {
namespace {

// At most six letters each, so that each is one token.
constexpr std::array<std::string_view, 128> kWords = {
    "the",   "a",      "of",     "to",     "in",     "and",    "we",     "they",   "you",
    "it",    "that",   "this",   "with",   "for",    "on",     "from",   "over",   "under",
    "after", "before", "while",  "when",   "where",  "then",   "than",   "more",   "less",
    "most",  "some",   "every",  "each",   "other",  "first",  "last",   "next",   "long",
    "short", "small",  "large",  "old",    "new",    "good",   "bright", "quiet",  "green",
    "blue",  "white",  "early",  "late",   "slow",   "quick",  "simple", "common", "same",
    "time",  "day",    "night",  "year",   "week",   "hour",   "world",  "city",   "river",
    "road",  "house",  "garden", "window", "door",   "table",  "paper",  "letter", "word",
    "story", "song",   "music",  "water",  "light",  "stone",  "tree",   "field",  "market",
    "ship",  "train",  "engine", "number", "answer", "reason", "order",  "part",   "side",
    "work",  "plan",   "system", "people", "friend", "child",  "doctor", "is",     "was",
    "has",   "can",    "could",  "should", "may",    "makes",  "takes",  "gives",  "finds",
    "keeps", "holds",  "turns",  "moves",  "begins", "stays",  "shows",  "says",   "knows",
    "sees",  "learns", "writes", "reads",  "opens",  "closes", "waits",  "grows",  "often",
    "never", "always"};
constexpr std::uint64_t kSentenceTokens = 12;  // The last one is the full stop.

struct WordIds {
  std::array<TokenId, kWords.size()> first;    // "The", with which a text begins.
  std::array<TokenId, kWords.size()> capital;  // " The"
  std::array<TokenId, kWords.size()> plain;    // " the"
  TokenId stop = 0;
};

const WordIds& Ids() {
  static const WordIds kIds = [] {
    WordIds ids;
    for (std::size_t i = 0; i < kWords.size(); ++i) {
      ids.first[i] = WordToken(kWords[i], /*space_before=*/false, /*capital=*/true);
      ids.capital[i] = WordToken(kWords[i], /*space_before=*/true, /*capital=*/true);
      ids.plain[i] = WordToken(kWords[i], /*space_before=*/true, /*capital=*/false);
    }
    ids.stop = Tokenize(".").front();
    return ids;
  }();
  return kIds;
}

}  // namespace

TokenId GeneratedToken(std::uint64_t stream, std::int64_t place) {
  const auto at = static_cast<std::uint64_t>(place);
  const WordIds& ids = Ids();
  const std::uint64_t in_sentence = at % kSentenceTokens;
  if (in_sentence == kSentenceTokens - 1) return ids.stop;
  const std::size_t word = MixBits(stream ^ MixBits(at)) % kWords.size();
  if (at == 0) return ids.first[word];
  return in_sentence == 0 ? ids.capital[word] : ids.plain[word];
}

}  // namespace sublet
