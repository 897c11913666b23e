#include "engine/tokenizer.h"

#include <array>

#include "base/check.h"

namespace sublet {
namespace {

// Ids below kWords are one to three bytes, the first one lowest, and with a length in front, since
// bytes may be zero. Words follow: six letters to the base of 27, 0 being none, and two flags.
constexpr TokenId kBytesTag = 1u << 24;  // Times the length, 1 to 3.
constexpr TokenId kWords = 4u << 24;
constexpr TokenId kLetters = 27u * 27 * 27 * 27 * 27 * 27;
constexpr TokenId kCapitalFlag = kLetters;
constexpr TokenId kSpaceFlag = 2 * kLetters;
constexpr TokenId kSpecial = kWords + 4 * kLetters;
static_assert(kSpecial < (1u << 31) - 100, "signed 32 bits must do for those who read ids so");

constexpr std::size_t kWordLettersMax = 6;
constexpr std::size_t kPieceBytesMax = 3;

constexpr std::array<std::string_view, 8> kSpecialTexts = {
    "<|begin|>", "<|system|>", "<|user|>",  "<|assistant|>",
    "<|tool|>",  "<|tools|>",  "<|image|>", "<|end|>"};

bool IsLower(char c) {
  return c >= 'a' && c <= 'z';
}
bool IsUpper(char c) {
  return c >= 'A' && c <= 'Z';
}
bool IsLetter(char c) {
  return IsLower(c) || IsUpper(c);
}

enum class Kind { kDigit, kBlank, kOther, kHigh };
Kind KindOf(char c) {
  if (c >= '0' && c <= '9') return Kind::kDigit;
  if (c == ' ' || c == '\t' || c == '\n' || c == '\r') return Kind::kBlank;
  return (static_cast<unsigned char>(c) & 0x80) != 0 ? Kind::kHigh : Kind::kOther;
}
// Neither a continuation byte of UTF-8 nor plain ASCII.
bool BeginsCharacter(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) == 0xc0;
}

// A word that begins at `at`, with the space before it.
TokenId TakeWord(std::string_view text, std::size_t& at) {
  const bool space = text[at] == ' ';
  if (space) ++at;
  const bool capital = IsUpper(text[at]);
  std::array<char, kWordLettersMax> letters = {};
  std::size_t count = 0;
  do {
    letters[count++] = static_cast<char>(text[at++] | 0x20);
  } while (count < kWordLettersMax && at < text.size() && IsLower(text[at]));
  return WordToken({letters.data(), count}, space, capital);
}

TokenId TakeBytes(std::string_view text, std::size_t& at) {
  const Kind kind = KindOf(text[at]);
  TokenId id = 0;
  std::size_t count = 0;
  do {
    id |= static_cast<TokenId>(static_cast<unsigned char>(text[at++])) << (8 * count++);
    const bool more = count < kPieceBytesMax && at < text.size() && !IsLetter(text[at]) &&
                      KindOf(text[at]) == kind && !BeginsCharacter(text[at]);
    if (!more) break;
    // The last blank before a word is the word's.
    const bool of_word = text[at] == ' ' && at + 1 < text.size() && IsLetter(text[at + 1]);
    if (of_word) break;
  } while (true);
  return id + kBytesTag * static_cast<TokenId>(count);
}

}  // namespace

TokenId SpecialTokenId(SpecialToken token) {
  return kSpecial + static_cast<TokenId>(token);
}

TokenId WordToken(std::string_view letters, bool space_before, bool capital) {
  CHECK(!letters.empty() && letters.size() <= kWordLettersMax);
  TokenId id = 0;
  for (std::size_t i = 0; i < kWordLettersMax; ++i) {
    id = id * 27 + (i < letters.size() ? static_cast<TokenId>(letters[i] - 'a' + 1) : 0);
  }
  return kWords + id + (space_before ? kSpaceFlag : 0) + (capital ? kCapitalFlag : 0);
}

void Tokenize(std::string_view text, std::vector<TokenId>& out) {
  std::size_t at = 0;
  while (at < text.size()) {
    const bool spaced = text[at] == ' ' && at + 1 < text.size() && IsLetter(text[at + 1]);
    const bool word = spaced || IsLetter(text[at]);
    out.push_back(word ? TakeWord(text, at) : TakeBytes(text, at));
  }
}

std::vector<TokenId> Tokenize(std::string_view text) {
  std::vector<TokenId> tokens;
  tokens.reserve(text.size() / 3);
  Tokenize(text, tokens);
  return tokens;
}

bool AppendTokenText(TokenId token, std::string& out) {
  if (token < kBytesTag || token >= kSpecial + kSpecialTexts.size()) return false;
  if (token >= kSpecial) {
    out += kSpecialTexts[token - kSpecial];
    return true;
  }
  if (token < kWords) {
    const TokenId length = token / kBytesTag;
    if (length < kPieceBytesMax && (token & (kBytesTag - 1)) >> (8 * length) != 0) return false;
    for (TokenId i = 0; i < length; ++i) out += static_cast<char>((token >> (8 * i)) & 0xff);
    return true;
  }
  const TokenId word = token - kWords;
  const TokenId flags = word / kLetters;
  TokenId rest = word % kLetters;
  std::array<char, kWordLettersMax> letters = {};
  std::size_t count = 0;
  for (std::size_t i = kWordLettersMax; i-- > 0; rest /= 27) {
    const TokenId digit = rest % 27;
    if (digit == 0 && count > 0) return false;  // A hole.
    if (digit == 0) continue;
    letters[i] = static_cast<char>('a' + digit - 1);
    ++count;
  }
  if (count == 0) return false;
  if ((flags & 1) != 0) letters[0] = static_cast<char>(letters[0] & ~0x20);
  if ((flags & 2) != 0) out += ' ';
  out.append(letters.data(), count);
  return true;
}

std::optional<std::string> Detokenize(const std::vector<TokenId>& tokens) {
  std::string text;
  for (const TokenId token : tokens) {
    if (!AppendTokenText(token, text)) return std::nullopt;
  }
  return text;
}

}  // namespace sublet
