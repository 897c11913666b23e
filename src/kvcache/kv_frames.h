// kvcache/kv_frames.h
//
// The number of a batch of KV events as it stands in a frame: 64 bits, big-endian.
//
//   socket.Send({topic, SequenceFrame(7).view(), payload});
//
// Thread safety: values.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace sublet {

// -1: the end of a replay.
inline constexpr std::uint64_t kReplayEndSequence = ~std::uint64_t{0};
// Numbers from here on are signs, not batches: negative to engines that count with a sign (vLLM's
// -1, and -2 for a snapshot that there isn't).
inline constexpr std::uint64_t kSequenceEnd = std::uint64_t{1} << 63;

class SequenceFrame {
 public:
  explicit SequenceFrame(std::uint64_t sequence) {
    for (std::size_t i = 0; i < bytes_.size(); ++i) {
      bytes_[i] = static_cast<char>(sequence >> (56 - 8 * i));
    }
  }
  std::string_view view() const { return {bytes_.data(), bytes_.size()}; }

 private:
  std::array<char, 8> bytes_;
};

inline std::optional<std::uint64_t> SequenceOfFrame(std::string_view frame) {
  if (frame.size() != 8) return std::nullopt;
  std::uint64_t sequence = 0;
  for (const char byte : frame) sequence = sequence << 8 | static_cast<unsigned char>(byte);
  return sequence;
}

}  // namespace sublet
