#include "kvcache/text_blocks.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

namespace sublet {

void TextBlocks::Text(std::string_view text) {
  if (filled_ > 0 || text.size() < kTextBlockBytes) {
    const std::size_t room = std::min(kTextBlockBytes - filled_, text.size());
    if (room > 0) std::memcpy(block_ + filled_, text.data(), room);
    filled_ += room;
    text.remove_prefix(room);
    if (filled_ < kTextBlockBytes) return;
    hashes_.push_back(XXH3_64bits(block_, kTextBlockBytes));
    filled_ = 0;
  }
  // The bulk of a long text is hashed where it lies.
  while (text.size() >= kTextBlockBytes) {
    hashes_.push_back(XXH3_64bits(text.data(), kTextBlockBytes));
    text.remove_prefix(kTextBlockBytes);
  }
  if (!text.empty()) std::memcpy(block_, text.data(), text.size());
  filled_ = text.size();
}

void TextBlocks::Pad() {
  if (filled_ == 0) return;
  std::memset(block_ + filled_, 0, kTextBlockBytes - filled_);
  block_[filled_] = static_cast<char>(PromptMark::kPad);
  hashes_.push_back(XXH3_64bits(block_, kTextBlockBytes));
  filled_ = 0;
}

void TextBlocks::Clear() {
  filled_ = 0;
  hashes_.clear();
}

std::uint64_t TextBlocks::Digest() const {
  const std::uint64_t tail = XXH3_64bits_withSeed(block_, filled_, hashes_.size() + 1);
  return XXH3_64bits_withSeed(hashes_.data(), hashes_.size() * sizeof(hashes_[0]), tail);
}

}  // namespace sublet
