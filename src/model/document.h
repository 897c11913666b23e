// model/document.h
//
// Strict reading of the YAML and JSON that people and programs hand us.
//
// ParseDocument() turns text into a tree of Nodes that know their line and column. A codec then
// reads a tree through ObjectReader, which checks types and ranges, refuses keys it doesn't know,
// and proposes the one that was probably meant:
//
//   Result<Tenant> ReadTenant(const Node& node) {
//     Tenant tenant;
//     ObjectReader in(node, "tenant");
//     in.Required("name", tenant.name);
//     in.Optional("priority", tenant.priority, {.min = 0, .max = 100});
//     RETURN_IF_ERROR(in.Finish());
//     return tenant;
//   }
//
//   // fleet.yaml:7:5: unknown key in tenant: 'priorty'   (hint: did you mean 'priority'?)
//
// ObjectReader keeps the first error and ignores what comes after it, so that a codec reads like a
// list of fields; Finish() returns that error. Errors carry "line:column: "; ParseAs() puts the
// file's name in front.
//
// JSON is read where the text starts with '{' or '[', YAML otherwise. Limits hold for both, because
// the text may come from anywhere: kDocumentBytesMax, kDocumentDepthMax, kDocumentNodesMax (this
// one counts nodes after aliases are expanded, so an alias bomb stops there). Duplicate keys are
// errors. Of YAML, tags, merge keys ('<<'), keys that are not text and several documents in one
// file are errors too: no format of ours needs them. Only `true` and `false` are booleans, so `no`
// is text. A plain scalar is text where text is expected: `PORT: 8000` needs no quotes.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace sublet {

constexpr std::size_t kDocumentBytesMax = 256u << 20;  // A plan of 100,000 replicas has 120 MB.
// What people write is small, and yaml-cpp reads some 5 MB a second: 16 MiB are refused or read
// within a few seconds.
constexpr std::size_t kYamlBytesMax = 16u << 20;
constexpr int kDocumentDepthMax = 64;                 // Our deepest format nests 12 levels.
constexpr std::size_t kDocumentNodesMax = 8'000'000;  // About 1 GiB as Nodes.

// Where a node starts; 1-based, columns in bytes.
struct Mark {
  int line = 0;
  int column = 0;
};

struct Node {
  enum class Kind { kNull, kScalar, kSequence, kMap };

  Kind kind = Kind::kNull;
  bool quoted = false;  // A scalar in quotes is text, whatever it looks like.
  Mark mark;
  Mark key_mark;  // Of the key, where the node is a map's field.
  std::string scalar;
  std::vector<Node> items;                           // kSequence
  std::vector<std::pair<std::string, Node>> fields;  // kMap, in the order of the text

  // Defaulted, in the .cc file: `fields` holds pairs of this type, which is not complete here, and
  // a strict compiler (clang) looks at a pair's constructors as soon as it sees these.
  Node();
  Node(const Node&);
  Node(Node&&) noexcept;
  Node& operator=(const Node&);
  Node& operator=(Node&&) noexcept;
  ~Node();

  // The field's value, or nullptr.
  const Node* Find(std::string_view key) const;
};

// Fails with kInvalid: syntax errors, limits, duplicate or non-scalar keys, several YAML documents.
Result<Node> ParseDocument(std::string_view text);

// An error at a node: kInvalid with "line:column: message".
[[nodiscard]] tl::unexpected<Error> FailAt(const Node& node, std::string message,
                                           std::string hint = {});

// "did you mean 'replicas'?" for the closest of `known` within two edits, otherwise the list of
// them. Empty when `known` is.
std::string SuggestFor(std::string_view word, const std::vector<std::string_view>& known);

struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

// Scalars of a node. Fail with kInvalid at the node's place.
Result<std::string> ReadString(const Node& node);
Result<bool> ReadBool(const Node& node);
Result<double> ReadNumber(const Node& node, Range range = {});
Result<std::int64_t> ReadInteger(const Node& node, Range range = {});
Result<Bytes> ReadBytes(const Node& node);  // "20GiB", or a plain number of bytes.
// A whole number of MiB, as the fields named *_mib have it in JSON:
//   in.Required("memory_mib", board.memory, ReadMib);
Result<Bytes> ReadMib(const Node& node);

class ObjectReader {
 public:
  // `what` names the object in messages: "workload", "tenant". Keeps a reference to `node`.
  ObjectReader(const Node& node, std::string_view what);

  bool Has(std::string_view key);

  void Required(std::string_view key, std::string& out);
  void Required(std::string_view key, std::int64_t& out, Range range = {});
  void Required(std::string_view key, int& out, Range range = {});
  void Required(std::string_view key, double& out, Range range = {});
  void Required(std::string_view key, bool& out);
  void Required(std::string_view key, Bytes& out);
  // `read` is Result<T>(const Node&).
  template <typename T, typename Read>
  void Required(std::string_view key, T& out, const Read& read) {
    if (const Node* node = Take(key, true)) Store(read(*node), out);
  }
  template <typename T, typename Read>
  void RequiredList(std::string_view key, std::vector<T>& out, const Read& read) {
    if (const Node* node = Take(key, true)) StoreList(*node, out, read);
  }

  // Leave `out` as it is where the key is absent or null.
  void Optional(std::string_view key, std::string& out);
  void Optional(std::string_view key, std::int64_t& out, Range range = {});
  void Optional(std::string_view key, int& out, Range range = {});
  void Optional(std::string_view key, double& out, Range range = {});
  void Optional(std::string_view key, bool& out);
  void Optional(std::string_view key, Bytes& out);
  void Optional(std::string_view key, std::optional<std::string>& out);
  void Optional(std::string_view key, std::optional<std::int64_t>& out, Range range = {});
  void Optional(std::string_view key, std::optional<int>& out, Range range = {});
  void Optional(std::string_view key, std::optional<double>& out, Range range = {});
  void Optional(std::string_view key, std::optional<Bytes>& out);
  template <typename T, typename Read>
  void Optional(std::string_view key, T& out, const Read& read) {
    if (const Node* node = Take(key, false)) Store(read(*node), out);
  }
  template <typename T, typename Read>
  void OptionalList(std::string_view key, std::vector<T>& out, const Read& read) {
    if (const Node* node = Take(key, false)) StoreList(*node, out, read);
  }

  // One of a fixed set of words.
  template <typename Enum>
  void RequiredEnum(std::string_view key, Enum& out,
                    const std::vector<std::pair<std::string_view, Enum>>& words) {
    if (const Node* node = Take(key, true)) Store(ReadEnum(*node, words), out);
  }
  template <typename Enum>
  void OptionalEnum(std::string_view key, Enum& out,
                    const std::vector<std::pair<std::string_view, Enum>>& words) {
    if (const Node* node = Take(key, false)) Store(ReadEnum(*node, words), out);
  }

  // Requires the field to be exactly `version`; another value names both.
  void Version(std::string_view version);

  // Records an error of the codec's own, at the field `key` if it is there, else at the object.
  void Reject(std::string_view key, std::string message, std::string hint = {});

  // Records that something is missing that more than one key could give. As for a required key, an
  // unknown key is reported before it.
  void RejectMissing(std::string message, std::string hint = {});

  // The first error; otherwise an error for the first key that nobody asked for.
  Status Finish();

 private:
  const Node* Take(std::string_view key, bool required);
  void SetError(Error error);

  template <typename From, typename To>
  void Store(Result<From>&& value, To& out) {
    if (!value) return SetError(std::move(value).error());
    out = static_cast<To>(std::move(*value));
  }
  template <typename T, typename Read>
  void StoreList(const Node& list, std::vector<T>& out, const Read& read) {
    if (list.kind != Node::Kind::kSequence) {
      return SetError(FailAt(list, "a list is expected here").value());
    }
    out.clear();
    out.reserve(list.items.size());
    for (const Node& item : list.items) {
      auto value = read(item);
      if (!value) return SetError(std::move(value).error());
      out.push_back(std::move(*value));
    }
  }
  template <typename Enum>
  static Result<Enum> ReadEnum(const Node& node,
                               const std::vector<std::pair<std::string_view, Enum>>& words) {
    ASSIGN_OR_RETURN(const std::string word, ReadString(node));
    std::vector<std::string_view> known;
    for (const auto& [name, value] : words) {
      if (name == word) return value;
      known.push_back(name);
    }
    return FailAt(node, "unknown value: '" + word.substr(0, 64) + "'", SuggestFor(word, known));
  }

  const Node& node_;
  std::string what_;
  std::vector<std::string_view> known_;
  std::vector<bool> taken_;
  std::optional<Error> error_;
  std::optional<Error> missing_;  // A required key that isn't there; Finish() says why it is apart.
};

// Parses `text` and reads it with `read`, which is Result<T>(const Node&); errors begin with
// "source:line:column: ".
template <typename Read>
auto ParseAs(std::string_view text, std::string_view source, const Read& read)
    -> decltype(read(std::declval<const Node&>())) {
  const auto with_source = [&](Error error) {
    error.message = std::string(source) + ":" + error.message;
    return tl::unexpected<Error>(std::move(error));
  };
  Result<Node> root = ParseDocument(text);
  if (!root) return with_source(std::move(root).error());
  auto value = read(*root);
  if (!value) return with_source(std::move(value).error());
  return value;
}

}  // namespace sublet
