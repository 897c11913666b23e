#include "proxy/model_alias.h"

#include <cstddef>
#include <optional>
#include <string_view>

namespace sublet {
namespace {

struct Span {
  std::size_t begin = 0;  // Within the quotes.
  std::size_t end = 0;
};

bool IsBlank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

// A walk over JSON that looks at nothing but strings and nesting. What isn't JSON may be walked
// wrongly, but never beyond its end.
class TopLevelWalk {
 public:
  explicit TopLevelWalk(std::string_view text) : text_(text) {}

  // The next value of "model" at the top level, where it is a string.
  std::optional<Span> NextModel() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') {
        const std::optional<Span> string = TakeString();
        if (!string) return std::nullopt;
        if (depth_ != 1 || !IsModelKey(*string)) continue;
        SkipBlanks();
        if (at_ < text_.size() && text_[at_] == '"') return TakeString();
      } else {
        depth_ += c == '{' || c == '[' ? 1 : 0;
        depth_ -= c == '}' || c == ']' ? 1 : 0;
        ++at_;
        // What comes after the object isn't of it.
        if (depth_ <= 0 && !IsBlank(c)) return std::nullopt;
      }
    }
    return std::nullopt;
  }

 private:
  void SkipBlanks() {
    while (at_ < text_.size() && IsBlank(text_[at_])) ++at_;
  }

  // From the quote on; leaves off behind the closing one.
  std::optional<Span> TakeString() {
    const std::size_t begin = ++at_;
    while (true) {
      at_ = text_.find_first_of("\"\\", at_);
      if (at_ == std::string_view::npos) {
        at_ = text_.size();
        return std::nullopt;
      }
      if (text_[at_] == '"') return Span{begin, at_++};
      at_ += 2;
      if (at_ >= text_.size()) return std::nullopt;
    }
  }

  // A key is followed by a colon, which is taken.
  bool IsModelKey(const Span& string) {
    SkipBlanks();
    if (at_ >= text_.size() || text_[at_] != ':') return false;
    ++at_;
    return text_.substr(string.begin, string.end - string.begin) == "model";
  }

  std::string_view text_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

bool ApplyAliases(const ModelAliases& aliases, std::string& body) {
  if (aliases.empty()) return false;
  TopLevelWalk walk(body);
  std::optional<Span> found;
  // Of two, an engine takes the last.
  while (const std::optional<Span> next = walk.NextModel()) found = next;
  if (!found) return false;
  const std::string_view name =
      std::string_view(body).substr(found->begin, found->end - found->begin);
  const auto alias = aliases.find(name);
  if (alias == aliases.end()) return false;
  body.replace(found->begin, found->end - found->begin, alias->second);
  return true;
}

}  // namespace sublet
