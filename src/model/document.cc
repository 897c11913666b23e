#include "model/document.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "model/document_parsers.h"

namespace sublet {
namespace {

constexpr std::size_t kQuotedMax = 64;       // A message that quotes the input stays one line.
constexpr std::size_t kSuggestionsMax = 32;  // More words than that are no help.

std::string Shortened(std::string_view text) {
  std::string shortened(text.substr(0, kQuotedMax));
  if (text.size() <= kQuotedMax) return shortened;
  // Cut before a character, not inside one: continuation bytes of UTF-8 are 10xxxxxx.
  std::size_t end = kQuotedMax;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  shortened.resize(end);
  return shortened + "...";
}

// Edits (insert, delete, replace, swap two neighbours) that turn `a` into `b`, or `limit` + 1 when
// it takes more than `limit`.
std::size_t EditDistance(std::string_view a, std::string_view b, std::size_t limit) {
  const std::size_t longer = std::max(a.size(), b.size());
  if (longer - std::min(a.size(), b.size()) > limit || longer > kQuotedMax) return limit + 1;
  // Rows of the usual table: the one being filled, the one before it and the one before that.
  std::array<std::array<std::size_t, kQuotedMax + 1>, 3> rows{};
  for (std::size_t j = 0; j <= b.size(); ++j) rows[0][j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    auto& row = rows[i % 3];
    const auto& above = rows[(i + 2) % 3];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], rows[(i + 1) % 3][j - 2] + 1);
      }
    }
  }
  return rows[a.size() % 3][b.size()];
}

std::string_view KindName(Node::Kind kind) {
  switch (kind) {
    case Node::Kind::kNull:
      return "nothing";
    case Node::Kind::kScalar:
      return "a single value";
    case Node::Kind::kSequence:
      return "a list";
    case Node::Kind::kMap:
      return "a map";
  }
  return "nothing";
}

Status ExpectScalar(const Node& node, std::string_view wanted) {
  if (node.kind == Node::Kind::kScalar) return {};
  return FailAt(node, fmt::format("{} is expected here, not {}", wanted, KindName(node.kind)));
}

Status CheckRange(const Node& node, double value, Range range) {
  if (value >= range.min && value <= range.max) return {};
  if (!std::isfinite(range.max)) {
    return FailAt(node, fmt::format("must be at least {}: {}", range.min, node.scalar));
  }
  if (!std::isfinite(range.min)) {
    return FailAt(node, fmt::format("must be at most {}: {}", range.max, node.scalar));
  }
  return FailAt(node, fmt::format("must be from {} to {}: {}", range.min, range.max, node.scalar));
}

// The whole of `text` as a finite number.
std::optional<double> NumberOf(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (!std::isfinite(number)) return std::nullopt;
  return number;
}

// The whole of `text` as a whole number; "7e9" and "8.0" are whole numbers too, where a double
// holds them exactly.
std::optional<std::int64_t> IntegerOf(std::string_view text) {
  std::int64_t integer = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), integer);
  if (error == std::errc() && end == text.data() + text.size()) return integer;
  constexpr double kExactMax = 9007199254740992.0;  // 2^53
  const std::optional<double> number = NumberOf(text);
  if (!number || std::abs(*number) > kExactMax || std::trunc(*number) != *number) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(*number);
}

Result<int> ReadInt(const Node& node, Range range) {
  ASSIGN_OR_RETURN(const std::int64_t number, ReadInteger(node, range));
  if (std::in_range<int>(number)) return static_cast<int>(number);
  return FailAt(node, fmt::format("a number that large can't be right: {}", number));
}

}  // namespace

Node::Node() = default;
Node::Node(const Node&) = default;
Node::Node(Node&&) noexcept = default;
Node& Node::operator=(const Node&) = default;
Node& Node::operator=(Node&&) noexcept = default;
Node::~Node() = default;

const Node* Node::Find(std::string_view key) const {
  for (const auto& [name, value] : fields) {
    if (name == key) return &value;
  }
  return nullptr;
}

Result<Node> ParseDocument(std::string_view text) {
  if (text.size() > kDocumentBytesMax) {
    return Fail(ErrorCode::kInvalid, fmt::format("1:1: the text has {} bytes; at most {} are read",
                                                 text.size(), kDocumentBytesMax));
  }
  if (text.substr(0, 3) == "\xEF\xBB\xBF") text.remove_prefix(3);  // The byte order mark of UTF-8.
  RETURN_IF_ERROR(internal::CheckText(text));
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) {
    return Fail(ErrorCode::kInvalid, "1:1: the document is empty");
  }
  if (text[first] == '{' || text[first] == '[') return internal::ParseJson(text);
  if (text.size() > kYamlBytesMax) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("1:1: the YAML text has {} bytes; at most {} are read", text.size(),
                            kYamlBytesMax),
                "larger documents are read as JSON");
  }
  return internal::ParseYaml(text);
}

tl::unexpected<Error> FailAt(const Node& node, std::string message, std::string hint) {
  return Fail(ErrorCode::kInvalid,
              fmt::format("{}:{}: {}", node.mark.line, node.mark.column, message), std::move(hint));
}

std::string SuggestFor(std::string_view word, const std::vector<std::string_view>& known) {
  constexpr std::size_t kEditsMax = 2;
  std::string_view best;
  std::size_t best_edits = kEditsMax + 1;
  for (const std::string_view candidate : known) {
    const std::size_t edits = EditDistance(word, candidate, kEditsMax);
    // A word of two letters is two edits from any other; that is no likeness.
    if (edits < best_edits && edits < std::max(word.size(), candidate.size())) {
      best = candidate;
      best_edits = edits;
    }
  }
  if (!best.empty()) return fmt::format("did you mean '{}'?", best);
  if (known.empty()) return {};
  const std::size_t shown = std::min(known.size(), kSuggestionsMax);
  return fmt::format("known are: {}{}", fmt::join(known.begin(), known.begin() + shown, ", "),
                     shown < known.size() ? ", ..." : "");
}

Result<std::string> ReadString(const Node& node) {
  RETURN_IF_ERROR(ExpectScalar(node, "text"));
  return node.scalar;
}

Result<bool> ReadBool(const Node& node) {
  RETURN_IF_ERROR(ExpectScalar(node, "true or false"));
  if (!node.quoted && node.scalar == "true") return true;
  if (!node.quoted && node.scalar == "false") return false;
  return FailAt(node,
                fmt::format("true or false is expected here, not '{}'", Shortened(node.scalar)));
}

Result<double> ReadNumber(const Node& node, Range range) {
  RETURN_IF_ERROR(ExpectScalar(node, "a number"));
  const std::optional<double> number = node.quoted ? std::nullopt : NumberOf(node.scalar);
  if (!number) {
    return FailAt(node, fmt::format("a number is expected here, not '{}'", Shortened(node.scalar)),
                  node.quoted && NumberOf(node.scalar) ? "write it without quotes" : "");
  }
  RETURN_IF_ERROR(CheckRange(node, *number, range));
  return *number;
}

Result<std::int64_t> ReadInteger(const Node& node, Range range) {
  RETURN_IF_ERROR(ExpectScalar(node, "a whole number"));
  const std::optional<std::int64_t> number = node.quoted ? std::nullopt : IntegerOf(node.scalar);
  if (!number) {
    return FailAt(node,
                  fmt::format("a whole number is expected here, not '{}'", Shortened(node.scalar)),
                  node.quoted && IntegerOf(node.scalar) ? "write it without quotes" : "");
  }
  RETURN_IF_ERROR(CheckRange(node, static_cast<double>(*number), range));
  return *number;
}

Result<Bytes> ReadBytes(const Node& node) {
  RETURN_IF_ERROR(ExpectScalar(node, "an amount of memory"));
  Result<Bytes> bytes = ParseBytes(node.scalar);
  if (bytes) return bytes;
  return FailAt(node, bytes.error().message, bytes.error().hint);
}

Result<Bytes> ReadMib(const Node& node) {
  // As ParseBytes(): below 2^60 bytes, so that sums can't overflow.
  constexpr double kMibMax = static_cast<double>((std::int64_t{1} << 40) - 1);
  ASSIGN_OR_RETURN(const std::int64_t mib, ReadInteger(node, {.min = 0, .max = kMibMax}));
  return Bytes::FromMib(mib);
}

ObjectReader::ObjectReader(const Node& node, std::string_view what)
    : node_(node), what_(what), taken_(node.fields.size(), false) {
  if (node.kind == Node::Kind::kMap) return;
  SetError(
      FailAt(node, fmt::format("{} must be a map, not {}", what_, KindName(node.kind))).value());
}

void ObjectReader::SetError(Error error) {
  if (!error_ && !missing_) error_ = std::move(error);
}

bool ObjectReader::Has(std::string_view key) {
  if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.push_back(key);
  const Node* field = node_.Find(key);
  return field != nullptr && field->kind != Node::Kind::kNull;
}

const Node* ObjectReader::Take(std::string_view key, bool required) {
  if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.push_back(key);
  const Node* found = nullptr;
  for (std::size_t i = 0; i < node_.fields.size(); ++i) {
    if (node_.fields[i].first != key) continue;
    taken_[i] = true;
    found = &node_.fields[i].second;
  }
  if (error_ || missing_) return nullptr;
  if (found != nullptr && found->kind != Node::Kind::kNull) return found;
  if (!required) return nullptr;
  Node at;
  at.mark = found != nullptr ? found->key_mark : node_.mark;
  missing_ = FailAt(at, fmt::format("missing {} in {}: '{}'", found != nullptr ? "value" : "key",
                                    what_, key))
                 .value();
  return nullptr;
}

void ObjectReader::Version(std::string_view version) {
  const Node* node = Take("version", true);
  if (node == nullptr) {
    if (missing_) missing_->hint = fmt::format("begin with the line version: {}", version);
    return;
  }
  if (node->kind == Node::Kind::kScalar && node->scalar == version) return;
  const std::string found(node->kind == Node::Kind::kScalar ? Shortened(node->scalar)
                                                            : KindName(node->kind));
  SetError(FailAt(*node, fmt::format("unknown version of {}: '{}'", what_, found),
                  fmt::format("this program reads {}", version))
               .value());
}

void ObjectReader::Reject(std::string_view key, std::string message, std::string hint) {
  const Node* field = node_.Find(key);
  SetError(FailAt(field != nullptr ? *field : node_, std::move(message), std::move(hint)).value());
}

void ObjectReader::RejectMissing(std::string message, std::string hint) {
  if (!error_ && !missing_) {
    missing_ = FailAt(node_, std::move(message), std::move(hint)).value();
  }
}

Status ObjectReader::Finish() {
  if (error_) return tl::unexpected<Error>(*error_);
  // An unknown key goes before a missing one, because it is often that one, mistyped.
  for (std::size_t i = 0; i < node_.fields.size(); ++i) {
    if (taken_[i]) continue;
    const auto& [key, value] = node_.fields[i];
    Node at_key;
    at_key.mark = value.key_mark;
    return FailAt(at_key, fmt::format("unknown key in {}: '{}'", what_, Shortened(key)),
                  SuggestFor(key, known_));
  }
  if (missing_) return tl::unexpected<Error>(*missing_);
  return {};
}

void ObjectReader::Required(std::string_view key, std::string& out) {
  Required(key, out, ReadString);
}
void ObjectReader::Required(std::string_view key, std::int64_t& out, Range range) {
  if (const Node* node = Take(key, true)) Store(ReadInteger(*node, range), out);
}
void ObjectReader::Required(std::string_view key, int& out, Range range) {
  if (const Node* node = Take(key, true)) Store(ReadInt(*node, range), out);
}
void ObjectReader::Required(std::string_view key, double& out, Range range) {
  if (const Node* node = Take(key, true)) Store(ReadNumber(*node, range), out);
}
void ObjectReader::Required(std::string_view key, bool& out) {
  Required(key, out, ReadBool);
}
void ObjectReader::Required(std::string_view key, Bytes& out) {
  Required(key, out, ReadBytes);
}

void ObjectReader::Optional(std::string_view key, std::string& out) {
  Optional(key, out, ReadString);
}
void ObjectReader::Optional(std::string_view key, std::int64_t& out, Range range) {
  if (const Node* node = Take(key, false)) Store(ReadInteger(*node, range), out);
}
void ObjectReader::Optional(std::string_view key, int& out, Range range) {
  if (const Node* node = Take(key, false)) Store(ReadInt(*node, range), out);
}
void ObjectReader::Optional(std::string_view key, double& out, Range range) {
  if (const Node* node = Take(key, false)) Store(ReadNumber(*node, range), out);
}
void ObjectReader::Optional(std::string_view key, bool& out) {
  Optional(key, out, ReadBool);
}
void ObjectReader::Optional(std::string_view key, Bytes& out) {
  Optional(key, out, ReadBytes);
}
void ObjectReader::Optional(std::string_view key, std::optional<std::string>& out) {
  Optional(key, out, ReadString);
}
void ObjectReader::Optional(std::string_view key, std::optional<std::int64_t>& out, Range range) {
  if (const Node* node = Take(key, false)) Store(ReadInteger(*node, range), out);
}
void ObjectReader::Optional(std::string_view key, std::optional<int>& out, Range range) {
  if (const Node* node = Take(key, false)) Store(ReadInt(*node, range), out);
}
void ObjectReader::Optional(std::string_view key, std::optional<double>& out, Range range) {
  if (const Node* node = Take(key, false)) Store(ReadNumber(*node, range), out);
}
void ObjectReader::Optional(std::string_view key, std::optional<Bytes>& out) {
  Optional(key, out, ReadBytes);
}

}  // namespace sublet
