// kvcache/prompt_renderer.h
//
// Inside the request scanner: JSON, tools and messages as canonical renderings (text_blocks.h).
//
//   PromptRenderer renderer;
//   if (const ScanFault fault = renderer.Messages(value, 2, blocks)) return Refuse(fault);
//
// simdjson's On Demand goes forward only, but the order of keys in a message must not count. So an
// object whose keys are read is swept first: its keys, and where its strings, numbers and words
// lie. That looks at the positions that simdjson's first stage found, a few for each key, and not
// at the bytes between them; these are read once, when they are hashed. A container is come back
// to.
//
// What is passed over is looked at too (Json() without blocks): On Demand skips without comparing
// braces, and a body that an engine reads otherwise than we do is a way around what we decide.
//
// An object of which keys are read may not have a key twice: Python's parser takes the last, others
// the first. Elsewhere (a tool's schema) keys are rendered in the order and number that they have.
//
// Thread safety: one thread.
#pragma once

#include <simdjson.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "kvcache/text_blocks.h"

namespace sublet {

// Why a body is refused; `what` is a constant, so that no part of a prompt gets into a message.
struct ScanFault {
  const char* what = nullptr;
  explicit operator bool() const { return what != nullptr; }
};
ScanFault FaultOf(simdjson::error_code error);

class PromptRenderer {
 public:
  using Value = simdjson::ondemand::value;
  using Object = simdjson::ondemand::object;
  using Type = simdjson::ondemand::json_type;

  void Reset();
  // Keys given out so far are needed no more.
  void ForgetKeys() { names_.clear(); }

  // Any JSON as it is written, but for space and escapes. Without `out` it is only checked.
  // `depth` is the value's own, where it is a container.
  ScanFault Json(Value value, int depth, TextBlocks* out);
  // Lists, item by item; what isn't a list is one item.
  ScanFault Messages(Value value, int depth, TextBlocks& out);
  // The items of the Responses API: messages, calls and their outputs.
  ScanFault InputItems(Value value, int depth, TextBlocks& out);
  // A string as a message of the user's.
  ScanFault UserMessage(Value value, TextBlocks& out);
  // Objects whose keys' order doesn't count down to `levels` below the list.
  ScanFault Items(Value value, int depth, int levels, TextBlocks& out);

  // A key as it reads, escapes or not; valid until ForgetKeys().
  ScanFault Key(simdjson::ondemand::field& field, std::string_view& key);

  // Images, sounds and files so far.
  int media_items() const { return media_items_; }

 private:
  // More than any object whose keys are read has; one with more is rendered as it is written.
  static constexpr std::size_t kFieldsMax = 16;

  struct Field {
    std::string_view key;
    std::string_view token;  // Of a scalar.
    Type type = Type::null;
    std::uint32_t ordinal = 0;
    bool done = false;
    bool IsContainer() const { return type == Type::object || type == Type::array; }
  };
  struct Fields {
    std::array<Field, kFieldsMax> list;
    std::size_t count = 0;
    bool too_many = false;
    Field* Find(std::string_view key);
  };

  // Drops the keys that were made since, so that a body of many has few at a time.
  class KeysOfObject {
   public:
    explicit KeysOfObject(std::deque<std::string>& names) : names_(names), before_(names.size()) {}
    ~KeysOfObject() { names_.resize(before_); }
    KeysOfObject(const KeysOfObject&) = delete;
    KeysOfObject& operator=(const KeysOfObject&) = delete;

   private:
    std::deque<std::string>& names_;
    std::size_t before_;
  };

  ScanFault Sweep(Object& object, Fields& fields);
  ScanFault Reopen(Object& object, const Field& field, Value& value);
  ScanFault CheckRest(Object& object, const Fields& fields, int depth);
  ScanFault OpenItem(Value value, int depth, Object& object);

  ScanFault Token(Type type, std::string_view token, TextBlocks* out);
  ScanFault Array(Value value, int depth, TextBlocks* out);
  ScanFault AsWritten(Object& object, int depth, TextBlocks* out);
  ScanFault Sorted(Value value, int depth, int levels, TextBlocks& out);
  ScanFault SortedFields(Object& object, Fields& fields, int depth, int levels, TextBlocks& out);
  ScanFault Message(Object& object, Fields& fields, int depth, TextBlocks& out);
  ScanFault MessageItem(Value value, int depth, TextBlocks& out);
  ScanFault InputItem(Value value, int depth, TextBlocks& out);
  ScanFault Content(Value value, int depth, TextBlocks& out);
  ScanFault Part(Value value, int depth, TextBlocks& out);

  std::deque<std::string> names_;  // Keys that had escapes; a deque's elements stay where they are.
  TextBlocks media_;
  int media_items_ = 0;
};

}  // namespace sublet
