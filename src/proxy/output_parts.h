// proxy/output_parts.h
//
// What is to be written, as parts that lie elsewhere.
//
//   parts.Clear();
//   parts.Add(head);
//   parts.Add(body);
//   while (!parts.empty()) parts.Advance(transport.Write(parts).bytes);
//
// Thread safety: one thread at a time.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <vector>

#include "proxy/transport.h"

namespace sublet::internal {

class OutputParts {
 public:
  void Clear() {
    parts_.clear();
    first_ = 0;
    bytes_ = 0;
  }
  // The text must stay where it is until it is written.
  void Add(std::string_view text) {
    if (text.empty()) return;
    parts_.push_back({const_cast<char*>(text.data()), text.size()});
    bytes_ += text.size();
  }
  bool empty() const { return first_ == parts_.size(); }
  std::size_t bytes() const { return bytes_; }  // Still to be written.
  const iovec* data() const { return parts_.data() + first_; }
  int count() const {
    return static_cast<int>(
        std::min<std::size_t>(parts_.size() - first_, std::size_t{Transport::kPartsMax}));
  }
  void Advance(std::size_t bytes) {
    bytes_ -= bytes;
    while (bytes > 0) {
      iovec& part = parts_[first_];
      const std::size_t taken = std::min(bytes, part.iov_len);
      part.iov_base = static_cast<char*>(part.iov_base) + taken;
      part.iov_len -= taken;
      bytes -= taken;
      if (part.iov_len == 0) ++first_;
    }
  }

 private:
  std::vector<iovec> parts_;
  std::size_t first_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace sublet::internal
