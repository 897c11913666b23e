// proxy/input_buffer.h
//
// Bytes that have been read from a socket and not been used yet, in one piece.
//
//   const std::span<char> room = input.Room(4096);
//   input.Filled(transport.Read(room.data(), room.size()).bytes);
//   input.Use(parser.Parse(input.text()));
//
// It has no memory before the first Room(), and keeps what it has for the next request.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>

namespace sublet::internal {

class InputBuffer {
 public:
  std::string_view text() const { return {bytes_.get() + begin_, end_ - begin_}; }
  std::size_t size() const { return end_ - begin_; }
  bool empty() const { return begin_ == end_; }
  std::size_t capacity() const { return capacity_; }

  // At least `least` bytes to write into; what text() gave is void.
  std::span<char> Room(std::size_t least) {
    if (begin_ == end_) begin_ = end_ = 0;
    if (capacity_ - end_ < least) MakeRoom(least);
    return {bytes_.get() + end_, capacity_ - end_};
  }
  void Filled(std::size_t bytes) { end_ += bytes; }
  void Use(std::size_t bytes) { begin_ += bytes; }

  void Clear() { begin_ = end_ = 0; }
  // Gives memory back that only an unusual request needed.
  void Trim(std::size_t capacity_max) {
    if (capacity_ <= capacity_max) return;
    bytes_.reset();
    begin_ = end_ = capacity_ = 0;
  }

 private:
  void MakeRoom(std::size_t least) {
    const std::size_t held = end_ - begin_;
    if (capacity_ - held >= least && capacity_ > 0) {
      std::memmove(bytes_.get(), bytes_.get() + begin_, held);
    } else {
      std::size_t capacity = capacity_ > 0 ? capacity_ : kCapacityMin;
      while (capacity - held < least) capacity *= 2;
      std::unique_ptr<char[]> bytes(new char[capacity]);
      if (held > 0) std::memcpy(bytes.get(), bytes_.get() + begin_, held);
      bytes_ = std::move(bytes);
      capacity_ = capacity;
    }
    begin_ = 0;
    end_ = held;
  }

  // A request with a prompt of 2,000 tokens comes in one read.
  static constexpr std::size_t kCapacityMin = 16u << 10;
  std::unique_ptr<char[]> bytes_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace sublet::internal
