// kvcache/text_blocks.h
//
// The canonical rendering of a prompt, hashed block by block while it is written and kept nowhere.
//
//   TextBlocks blocks;
//   blocks.Mark(PromptMark::kItem);
//   blocks.Text("hello");
//   blocks.hashes()     // One for each kTextBlockBytes so far.
//
// A rendering is text with marks between its parts. Marks are bytes that UTF-8 never has, so that
// no text can look like a structure that it isn't: two renderings are equal exactly where the
// prompts are.
//
// The hashes are of the blocks alone, not yet a chain: what a chain starts from (the model, the
// salt) may stand at the end of a request's body.
//
// Thread safety: a value; its owner's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "kvcache/request_prefix.h"

namespace sublet {

// Bytes F7 to FF begin no character of UTF-8, nor are they in one.
enum class PromptMark : unsigned char {
  kPad = 0xF7,     // The rest of the block is empty.
  kItem = 0xF8,    // A message, a tool, a prompt begins.
  kField = 0xF9,   // A field of an item; a byte that names it follows.
  kText = 0xFA,    // Text follows.
  kMedia = 0xFB,   // Eight bytes of a hash of an image, a sound or a file follow.
  kObject = 0xFC,  // JSON: an object, as keys and values in turn, until kEnd.
  kArray = 0xFD,
  kEnd = 0xFE,
  kAtom = 0xFF,  // JSON: a number as it was written, true, false or null.
};

class TextBlocks {
 public:
  void Mark(PromptMark mark) {
    const char byte = static_cast<char>(mark);
    Text({&byte, 1});
  }
  void Field(PromptMark mark, char name) {
    const char bytes[] = {static_cast<char>(mark), name};
    Text({bytes, 2});
  }
  void Number(std::uint64_t value) { Text({reinterpret_cast<const char*>(&value), sizeof(value)}); }
  void Text(std::string_view text);
  // Ends the block that was begun, so that what follows doesn't depend on what was before.
  void Pad();
  void Clear();

  const std::vector<std::uint64_t>& hashes() const { return hashes_; }
  std::size_t bytes() const { return hashes_.size() * kTextBlockBytes + filled_; }
  // Of everything, the block that was begun included.
  std::uint64_t Digest() const;

 private:
  char block_[kTextBlockBytes] = {};
  std::size_t filled_ = 0;
  std::vector<std::uint64_t> hashes_;
};

}  // namespace sublet
