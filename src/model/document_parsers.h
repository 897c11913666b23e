// model/document_parsers.h
//
// The two readers behind ParseDocument(), and what they share; include model/document.h instead.
//
// Both hand their events to a TreeBuilder, which keeps the limits, so that neither can forget one.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/result.h"
#include "model/document.h"

namespace sublet::internal {

// Fails at the first byte that is not UTF-8, and at control characters other than tab, line feed
// and carriage return: neither format allows them, and a NUL would cut a string short further on.
Status CheckText(std::string_view text);

// `text` has passed CheckText().
Result<Node> ParseYaml(std::string_view text);
Result<Node> ParseJson(std::string_view text);

// Builds the tree from events in the order of the text. Every call returns false after an error and
// then does nothing; Finish() has the error.
//
// Invariants: (1) frames_ are the containers still open, outermost first; all but the last are
// where their parent's next child will be. (2) nodes_ counts every Node of the tree, aliases
// expanded.
class TreeBuilder {
 public:
  // Identifies an anchor of the text; 0: none.
  using Anchor = std::size_t;

  bool Open(Node::Kind kind, Mark mark, Anchor anchor = 0);
  bool Close();
  bool Scalar(Mark mark, std::string_view text, bool quoted, Anchor anchor = 0);
  bool Null(Mark mark, Anchor anchor = 0);
  bool Key(Mark mark, std::string_view key);
  bool Alias(Mark mark, Anchor anchor);
  bool Stop(Mark mark, std::string message, std::string hint = {});

  // True when the next event must be a Key().
  bool ExpectsKey() const;
  bool Failed() const { return error_.has_value(); }
  // REQUIRES: every container has been closed, or the builder has failed.
  Result<Node> Finish();

 private:
  struct Frame {
    Node node;
    bool expects_key = false;
    std::string key;  // Of the value to come.
    Mark key_mark;
    std::unordered_set<std::string> keys;  // Filled once the map is too big for a linear search.

    std::size_t ChildCount() const { return node.items.size() + node.fields.size(); }
  };
  struct Size {
    std::size_t nodes = 0;
    std::size_t bytes = 0;
    int depth = 0;
  };

  bool Attach(Node node);
  bool Account(Mark mark, Size size);
  bool Remember(Mark mark, Anchor anchor);
  bool IsDuplicate(Frame& frame, const std::string& key) const;
  const Node* Anchored(Anchor anchor) const;
  static void Measure(const Node& node, int depth, std::size_t nodes_max, Size& size);

  std::vector<Frame> frames_;
  std::optional<Node> root_;
  std::size_t nodes_ = 0;
  std::size_t bytes_ = 0;
  std::size_t alias_nodes_ = 0;
  // Where an anchored node lies: the child's number at each level from the root.
  std::unordered_map<Anchor, std::vector<std::uint32_t>> anchors_;
  std::optional<Error> error_;
};

}  // namespace sublet::internal
