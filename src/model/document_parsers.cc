#include "model/document_parsers.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <istream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <streambuf>
#include <utility>

#include "base/check.h"

namespace sublet::internal {
namespace {

// Room for each of 2,000 workloads to repeat a block of 100 nodes.
constexpr std::size_t kAliasNodesMax = 200'000;
constexpr std::size_t kAnchorsMax = 10'000;   // Their paths then take less than 3 MB.
constexpr std::size_t kLinearSearchMax = 16;  // Below that a hash is slower than looking.

// Turns ascending offsets into lines and columns, in one pass over the text.
class LineCounter {
 public:
  explicit LineCounter(std::string_view text) : text_(text) {}

  // REQUIRES: `offset` is not before the last one.
  Mark At(std::size_t offset) {
    offset = std::min(offset, text_.size());
    for (; offset_ < offset; ++offset_) {
      if (text_[offset_] != '\n') continue;
      ++line_;
      line_begin_ = offset_ + 1;
    }
    return {.line = line_, .column = static_cast<int>(offset - line_begin_) + 1};
  }

 private:
  std::string_view text_;
  std::size_t offset_ = 0;
  std::size_t line_begin_ = 0;
  int line_ = 1;
};

tl::unexpected<Error> FailAtMark(Mark mark, std::string message, std::string hint = {}) {
  Node node;
  node.mark = mark;
  return FailAt(node, std::move(message), std::move(hint));
}

// Bytes of the well-formed UTF-8 sequence that begins at `text`, or 0. The ranges are those of the
// Unicode standard's table of well-formed byte sequences: no overlong forms, no surrogates.
std::size_t SequenceLength(std::string_view text) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto within = [](unsigned value, unsigned low, unsigned high) {
    return value >= low && value <= high;
  };
  const unsigned lead = byte(0);
  if (within(lead, 0x00, 0x7F)) return 1;
  if (within(lead, 0xC2, 0xDF)) return within(byte(1), 0x80, 0xBF) ? 2 : 0;
  if (within(lead, 0xE0, 0xEF)) {
    const unsigned low = lead == 0xE0 ? 0xA0 : 0x80;
    const unsigned high = lead == 0xED ? 0x9F : 0xBF;
    return within(byte(1), low, high) && within(byte(2), 0x80, 0xBF) ? 3 : 0;
  }
  if (within(lead, 0xF0, 0xF4)) {
    const unsigned low = lead == 0xF0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xF4 ? 0x8F : 0xBF;
    return within(byte(1), low, high) && within(byte(2), 0x80, 0xBF) && within(byte(3), 0x80, 0xBF)
               ? 4
               : 0;
  }
  return 0;
}

}  // namespace

Status CheckText(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte >= 0x20 && byte < 0x7F) {
      ++i;
      continue;
    }
    const bool control = byte < 0x20 || byte == 0x7F;
    if (control && byte != '\t' && byte != '\n' && byte != '\r') {
      return FailAtMark(LineCounter(text).At(i),
                        fmt::format("a control character that text can't have: 0x{:02x}", byte),
                        byte == 0 ? "is this a text file in UTF-8?" : "");
    }
    const std::size_t length = SequenceLength(text.substr(i));
    if (length == 0) {
      return FailAtMark(LineCounter(text).At(i), fmt::format("not UTF-8: byte 0x{:02x}", byte),
                        "save the file as UTF-8");
    }
    i += length;
  }
  return {};
}

// ---- TreeBuilder -------------------------------------------------------------------------------

bool TreeBuilder::Stop(Mark mark, std::string message, std::string hint) {
  if (!error_) error_ = FailAtMark(mark, std::move(message), std::move(hint)).value();
  return false;
}

bool TreeBuilder::ExpectsKey() const {
  return !frames_.empty() && frames_.back().expects_key;
}

bool TreeBuilder::Account(Mark mark, Size size) {
  if (error_) return false;
  nodes_ += size.nodes;
  bytes_ += size.bytes;
  if (nodes_ > kDocumentNodesMax) {
    return Stop(mark, fmt::format("more than {} values", kDocumentNodesMax));
  }
  // Only aliases can make the tree's text longer than the document's.
  if (bytes_ > kDocumentBytesMax) {
    return Stop(mark, fmt::format("aliases expand to more than {} bytes", kDocumentBytesMax));
  }
  if (static_cast<int>(frames_.size()) + size.depth > kDocumentDepthMax) {
    return Stop(mark, fmt::format("nested more than {} levels deep", kDocumentDepthMax));
  }
  return true;
}

bool TreeBuilder::Remember(Mark mark, Anchor anchor) {
  if (anchor == 0) return true;
  if (anchors_.size() >= kAnchorsMax) {
    return Stop(mark, fmt::format("more than {} anchors", kAnchorsMax));
  }
  std::vector<std::uint32_t>& path = anchors_[anchor];
  path.clear();
  for (const Frame& frame : frames_) path.push_back(static_cast<std::uint32_t>(frame.ChildCount()));
  return true;
}

bool TreeBuilder::Open(Node::Kind kind, Mark mark, Anchor anchor) {
  if (!Account(mark, {.nodes = 1, .bytes = 0, .depth = 1}) || !Remember(mark, anchor)) return false;
  Frame& frame = frames_.emplace_back();
  frame.node.kind = kind;
  frame.node.mark = mark;
  frame.expects_key = kind == Node::Kind::kMap;
  return true;
}

bool TreeBuilder::Close() {
  if (error_) return false;
  CHECK(!frames_.empty());
  Node node = std::move(frames_.back().node);
  frames_.pop_back();
  return Attach(std::move(node));
}

bool TreeBuilder::Scalar(Mark mark, std::string_view text, bool quoted, Anchor anchor) {
  if (!Account(mark, {.nodes = 1, .bytes = text.size()}) || !Remember(mark, anchor)) return false;
  if (text.find('\0') != std::string_view::npos) {
    return Stop(mark, "an escaped NUL character, which text can't have");
  }
  Node node;
  node.kind = Node::Kind::kScalar;
  node.quoted = quoted;
  node.mark = mark;
  node.scalar = text;
  return Attach(std::move(node));
}

bool TreeBuilder::Null(Mark mark, Anchor anchor) {
  if (!Account(mark, {.nodes = 1}) || !Remember(mark, anchor)) return false;
  Node node;
  node.mark = mark;
  return Attach(std::move(node));
}

bool TreeBuilder::Attach(Node node) {
  if (frames_.empty()) {
    root_ = std::move(node);
    return true;
  }
  Frame& frame = frames_.back();
  if (frame.node.kind == Node::Kind::kSequence) {
    frame.node.items.push_back(std::move(node));
    return true;
  }
  CHECK(!frame.expects_key);
  node.key_mark = frame.key_mark;
  frame.node.fields.emplace_back(std::move(frame.key), std::move(node));
  frame.expects_key = true;
  return true;
}

bool TreeBuilder::IsDuplicate(Frame& frame, const std::string& key) const {
  if (frame.node.fields.size() < kLinearSearchMax) return frame.node.Find(key) != nullptr;
  if (frame.keys.empty()) {
    for (const auto& [name, value] : frame.node.fields) frame.keys.insert(name);
  }
  return !frame.keys.insert(key).second;
}

bool TreeBuilder::Key(Mark mark, std::string_view key) {
  if (!Account(mark, {.nodes = 0, .bytes = key.size()})) return false;
  CHECK(ExpectsKey());
  Frame& frame = frames_.back();
  frame.key = key;
  frame.key_mark = mark;
  frame.expects_key = false;
  if (frame.key.find('\0') != std::string::npos) {
    return Stop(mark, "an escaped NUL character, which text can't have");
  }
  if (!IsDuplicate(frame, frame.key)) return true;
  return Stop(mark, fmt::format("duplicate key: '{}'", key.substr(0, 64)));
}

// Follows the path. Where it goes through a container that is still open, that container is the
// next frame, since it is not among its parent's children yet.
const Node* TreeBuilder::Anchored(Anchor anchor) const {
  const auto found = anchors_.find(anchor);
  if (found == anchors_.end()) return nullptr;
  const Node* node = frames_.empty() ? nullptr : &frames_.front().node;
  std::size_t open = 0;
  for (const std::uint32_t child : found->second) {
    CHECK(node != nullptr);
    const bool in_frame = open < frames_.size() && node == &frames_[open].node;
    if (in_frame && child == frames_[open].ChildCount()) {
      ++open;
      node = open < frames_.size() ? &frames_[open].node : nullptr;
    } else {
      node = node->kind == Node::Kind::kMap ? &node->fields[child].second : &node->items[child];
    }
  }
  const bool still_open = open < frames_.size() && node == &frames_[open].node;
  return still_open ? nullptr : node;
}

void TreeBuilder::Measure(const Node& node, int depth, std::size_t nodes_max, Size& size) {
  ++size.nodes;
  size.bytes += node.scalar.size();
  if (node.kind == Node::Kind::kSequence || node.kind == Node::Kind::kMap) ++depth;
  size.depth = std::max(size.depth, depth);
  for (const Node& item : node.items) {
    if (size.nodes > nodes_max) return;
    Measure(item, depth, nodes_max, size);
  }
  for (const auto& [key, value] : node.fields) {
    if (size.nodes > nodes_max) return;
    size.bytes += key.size();
    Measure(value, depth, nodes_max, size);
  }
}

bool TreeBuilder::Alias(Mark mark, Anchor anchor) {
  if (error_) return false;
  const Node* target = Anchored(anchor);
  if (target == nullptr) return Stop(mark, "an alias inside the value that it stands for");
  Size size;
  Measure(*target, 0, kAliasNodesMax, size);
  alias_nodes_ += size.nodes;
  if (alias_nodes_ > kAliasNodesMax) {
    return Stop(mark, fmt::format("aliases expand to more than {} values", kAliasNodesMax));
  }
  if (!Account(mark, size)) return false;
  Node copy = *target;
  return Attach(std::move(copy));
}

Result<Node> TreeBuilder::Finish() {
  if (error_) return tl::unexpected<Error>(*error_);
  CHECK(frames_.empty() && root_.has_value());
  return std::move(*root_);
}

// ---- YAML --------------------------------------------------------------------------------------

namespace {

// Thrown out of yaml-cpp's parser, which has no other way to be stopped, and caught in ParseYaml().
struct Stopped {};

class YamlEvents final : public YAML::EventHandler {
 public:
  explicit YamlEvents(TreeBuilder& tree) : tree_(tree) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 2) Demand(tree_.Stop(At(mark), "a second document: one is expected"));
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (tree_.ExpectsKey()) RejectKey(mark);
    Demand(tree_.Null(At(mark), anchor));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (tree_.ExpectsKey()) RejectKey(mark);
    Demand(tree_.Alias(At(mark), anchor));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    // yaml-cpp's tags for text without one: "?" where it is plain, "!" where it is quoted.
    const bool quoted = tag == "!";
    if (!quoted) RejectTag(mark, tag);
    if (!tree_.ExpectsKey()) return Demand(tree_.Scalar(At(mark), value, quoted, anchor));
    if (anchor != YAML::NullAnchor) RejectKey(mark);
    if (!quoted && value == "<<") {
      Demand(tree_.Stop(At(mark), "merge keys ('<<') are not supported",
                        "write the fields out, or give a whole value an anchor"));
    }
    Demand(tree_.Key(At(mark), value));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    OpenContainer(Node::Kind::kSequence, mark, tag, anchor);
  }
  void OnSequenceEnd() override { Demand(tree_.Close()); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    OpenContainer(Node::Kind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override { Demand(tree_.Close()); }

  bool SawDocument() const { return documents_ > 0; }

  static Mark At(const YAML::Mark& mark) {
    return mark.is_null() ? Mark{.line = 1, .column = 1}
                          : Mark{.line = mark.line + 1, .column = mark.column + 1};
  }

 private:
  static void Demand(bool ok) {
    if (!ok) throw Stopped{};
  }

  void RejectTag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.empty() || tag == "?") return;
    Demand(tree_.Stop(At(mark), fmt::format("tags are not supported: '{}'", tag.substr(0, 64))));
  }

  void RejectKey(const YAML::Mark& mark) {
    Demand(tree_.Stop(At(mark), "a key must be plain or quoted text"));
  }

  void OpenContainer(Node::Kind kind, const YAML::Mark& mark, const std::string& tag,
                     YAML::anchor_t anchor) {
    RejectTag(mark, tag);
    if (tree_.ExpectsKey()) RejectKey(mark);
    Demand(tree_.Open(kind, At(mark), anchor));
  }

  TreeBuilder& tree_;
  int documents_ = 0;
};

// Lets an istream read a string_view in place.
class ViewBuffer final : public std::streambuf {
 public:
  explicit ViewBuffer(std::string_view text) {
    char* begin = const_cast<char*>(text.data());  // Only read: there is no put area.
    setg(begin, begin, begin + text.size());
  }
};

}  // namespace

Result<Node> ParseYaml(std::string_view text) {
  ViewBuffer buffer(text);
  std::istream stream(&buffer);
  TreeBuilder tree;
  YamlEvents events(tree);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(events)) {
    }
  } catch (const Stopped&) {
    CHECK(tree.Failed());
    return tree.Finish();
  } catch (const YAML::Exception& error) {
    return FailAtMark(YamlEvents::At(error.mark), fmt::format("not valid YAML: {}", error.msg));
  } catch (const std::exception& error) {
    return Fail(ErrorCode::kInvalid, fmt::format("1:1: not readable as YAML: {}", error.what()));
  }
  if (!events.SawDocument()) return Fail(ErrorCode::kInvalid, "1:1: the document is empty");
  return tree.Finish();
}

// ---- JSON --------------------------------------------------------------------------------------

namespace {

// Remembers where the token begins that the parser is reading: the first byte after the last event
// that is not a blank or a separator. The parser reads at most one byte past a token (the one that
// ends a number), and that byte is a blank, a separator or a closing bracket.
struct JsonPosition {
  const char* begin = nullptr;
  const char* token = nullptr;
  const char* last = nullptr;  // The byte read last.
  bool armed = true;

  void Read(const char* at) {
    last = at;
    if (!armed || std::string_view(" \t\r\n,:]}").find(*at) != std::string_view::npos) return;
    token = at;
    armed = false;
  }
};

class JsonIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  JsonIterator(const char* at, JsonPosition& position) : at_(at), position_(&position) {}
  reference operator*() const {
    position_->Read(at_);
    return *at_;
  }
  JsonIterator& operator++() { return ++at_, *this; }
  JsonIterator operator++(int) { return {at_++, *position_}; }
  friend bool operator==(const JsonIterator& a, const JsonIterator& b) { return a.at_ == b.at_; }

 private:
  const char* at_;
  JsonPosition* position_;
};

// The events that nlohmann's parser sends. It never throws at a syntax error when there is a
// handler: it calls parse_error().
class JsonEvents {
 public:
  JsonEvents(std::string_view text, JsonPosition& position, TreeBuilder& tree)
      : lines_(text), position_(position), tree_(tree) {}

  bool null() { return tree_.Null(Begin()); }
  bool boolean(bool value) { return tree_.Scalar(Begin(), value ? "true" : "false", false); }
  bool number_integer(std::int64_t value) {
    return tree_.Scalar(Begin(), std::to_string(value), false);
  }
  bool number_unsigned(std::uint64_t value) {
    return tree_.Scalar(Begin(), std::to_string(value), false);
  }
  bool number_float(double /*value*/, const std::string& text) {
    return tree_.Scalar(Begin(), text, false);
  }
  bool string(const std::string& value) { return tree_.Scalar(Begin(), value, true); }
  bool binary(const nlohmann::json::binary_t& /*value*/) {
    return tree_.Stop(Begin(), "JSON has no binary values");
  }
  bool start_object(std::size_t /*elements*/) { return tree_.Open(Node::Kind::kMap, Begin()); }
  bool key(const std::string& value) { return tree_.Key(Begin(), value); }
  bool end_object() { return tree_.Close(); }
  bool start_array(std::size_t /*elements*/) { return tree_.Open(Node::Kind::kSequence, Begin()); }
  bool end_array() { return tree_.Close(); }

  bool parse_error(std::size_t /*position*/, const std::string& /*last_token*/,
                   const nlohmann::detail::exception& error) {
    // "[json.exception...] parse error at line 1, column 2: syntax error while ...: what it is".
    std::string_view what = error.what();
    const std::size_t number = what.find("] ");
    if (number != std::string_view::npos) what.remove_prefix(number + 2);
    if (what.substr(0, 11) == "parse error") {
      const std::size_t place = what.find(": ");
      if (place != std::string_view::npos) what.remove_prefix(place + 2);
    }
    // A token in the wrong place is named by where it begins, anything else by where reading
    // stopped.
    const bool whole_token = what.find("; expected ") != std::string_view::npos;
    const char* at = position_.last == nullptr ? position_.begin : position_.last;
    if (whole_token && !position_.armed) at = position_.token;
    return tree_.Stop(lines_.At(static_cast<std::size_t>(at - position_.begin)),
                      fmt::format("not valid JSON: {}", what.substr(0, 240)));
  }

 private:
  Mark Begin() {
    CHECK(position_.token != nullptr);
    position_.armed = true;
    return lines_.At(static_cast<std::size_t>(position_.token - position_.begin));
  }

  LineCounter lines_;
  JsonPosition& position_;
  TreeBuilder& tree_;
};

}  // namespace

Result<Node> ParseJson(std::string_view text) {
  JsonPosition position{.begin = text.data()};
  TreeBuilder tree;
  JsonEvents events(text, position, tree);
  try {
    const bool whole =
        nlohmann::json::sax_parse(JsonIterator(text.data(), position),
                                  JsonIterator(text.data() + text.size(), position), &events);
    CHECK(whole || tree.Failed());
  } catch (const std::exception& error) {
    return Fail(ErrorCode::kInvalid, fmt::format("1:1: not readable as JSON: {}", error.what()));
  }
  return tree.Finish();
}

}  // namespace sublet::internal
