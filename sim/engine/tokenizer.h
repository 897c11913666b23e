// sim/engine/tokenizer.h
//
// Text to token ids and back, as a tokenizer of English does it in what matters to a cache.
//
//   std::vector<TokenId> tokens = Tokenize("The quick fox, 42.");   // The| quick| fox|,| |42|.
//   *Detokenize(tokens)                                             // "The quick fox, 42."
//
// A token is a word's first six letters with the space before it, six more of its letters, or up to
// three bytes of anything else of one kind (digits, blanks, punctuation, UTF-8). English has some
// 4.5 bytes a token, code some 3. There is no dictionary: an id is its text, packed into 31 bits,
// so that no two texts have the same ids and Detokenize() is exact for any bytes.
//
// Where a text ends with a word, a number or punctuation and goes on with a blank, its tokens are
// the beginning of those of the longer text; so, too, where a word is followed by punctuation. It
// is all that a conversation needs.
//
// Special tokens mark the parts of a chat and stand for no bytes of anybody's text; Detokenize()
// shows them as "<|user|>".
//
// Thread safety: pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvcache/block_hash.h"

namespace sublet {

enum class SpecialToken { kBegin, kSystem, kUser, kAssistant, kTool, kTools, kImage, kEnd };
TokenId SpecialTokenId(SpecialToken token);

void Tokenize(std::string_view text, std::vector<TokenId>& out);
std::vector<TokenId> Tokenize(std::string_view text);

// None where an id is no token.
std::optional<std::string> Detokenize(const std::vector<TokenId>& tokens);
// Appends; false where it is none.
bool AppendTokenText(TokenId token, std::string& out);

// A word of one to six lower case letters as one token. REQUIRES: it is such a word.
TokenId WordToken(std::string_view letters, bool space_before, bool capital);

}  // namespace sublet
