// Prompts that say the same have one chain however they are written, and others another.

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "kvcache/request_prefix.h"

namespace sublet {
namespace {

struct ChatTurn {
  std::string role;
  std::vector<std::string> parts;  // Texts, and images where they begin with "data:".
  std::string tool_call;           // The name of a function; empty: none.
  friend bool operator==(const ChatTurn&, const ChatTurn&) = default;
};

struct ChatPrompt {
  std::vector<std::string> tools;
  std::vector<ChatTurn> turns;
  friend bool operator==(const ChatPrompt&, const ChatPrompt&) = default;
};

std::string ArbitraryText() {
  static const std::vector<std::string> kPieces = {"a",
                                                   "\"",
                                                   "\\",
                                                   "/",
                                                   "\n",
                                                   "\t",
                                                   "\x01",
                                                   "{\"role\":",
                                                   "]}",
                                                   "user",
                                                   "\xC3\xA9",
                                                   "\xE2\x82\xAC",
                                                   "\xF0\x9F\x98\x80",
                                                   " ",
                                                   std::string(1, '\0'),
                                                   "0123456789abcdef"};
  const auto pieces = *rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(kPieces));
  std::string text;
  for (const std::string& piece : pieces) text += piece;
  return text;
}

ChatPrompt ArbitraryPrompt() {
  ChatPrompt prompt;
  const int tools = *rc::gen::inRange(0, 3);
  for (int i = 0; i < tools; ++i) prompt.tools.push_back(ArbitraryText());
  const int turns = *rc::gen::inRange(0, 5);
  for (int i = 0; i < turns; ++i) {
    ChatTurn turn;
    turn.role = *rc::gen::element<std::string>("user", "assistant", "system");
    const int parts = *rc::gen::inRange(0, 3);
    for (int j = 0; j < parts; ++j) {
      turn.parts.push_back(*rc::gen::inRange(0, 4) == 0 ? "data:" + ArbitraryText()
                                                        : "t" + ArbitraryText());
    }
    if (*rc::gen::inRange(0, 4) == 0) turn.tool_call = "f" + ArbitraryText();
    prompt.turns.push_back(turn);
  }
  return prompt;
}

// Writes JSON in one of the ways in which the same can be written.
class Writer {
 public:
  explicit Writer(bool plain) : plain_(plain) {}

  std::string Space() {
    if (plain_) return "";
    return *rc::gen::element<std::string>("", "", " ", "\n\t", "\r\n  ");
  }

  std::string Text(const std::string& text) {
    std::string out = "\"";
    for (std::size_t i = 0; i < text.size();) {
      const auto c = static_cast<unsigned char>(text[i]);
      const std::size_t size = c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
      const bool must = c < 0x20 || c == '"' || c == '\\';
      if (must || (!plain_ && *rc::gen::inRange(0, 4) == 0)) {
        out += Escaped(text.substr(i, size));
      } else {
        out += text.substr(i, size);
      }
      i += size;
    }
    return out + "\"";
  }

  using Member = std::pair<std::string, std::string>;
  std::string Object(std::vector<Member> members) {
    if (!plain_) Shuffle(members);
    std::string out = "{" + Space();
    for (std::size_t i = 0; i < members.size(); ++i) {
      if (i > 0) out += "," + Space();
      out += Text(members[i].first) + Space() + ":" + Space() + members[i].second + Space();
    }
    return out + "}";
  }

  std::string Array(const std::vector<std::string>& elements) {
    std::string out = "[" + Space();
    for (std::size_t i = 0; i < elements.size(); ++i) {
      out += (i > 0 ? "," : "") + Space() + elements[i] + Space();
    }
    return out + "]";
  }

  std::string Part(const std::string& part) {
    if (part.starts_with("data:")) {
      return Object({{"type", "\"image_url\""},
                     {"image_url", Object({{"url", Text(part)}, {"detail", "\"low\""}})}});
    }
    return Object({{"type", "\"text\""}, {"text", Text(part)}});
  }

  std::string Turn(const ChatTurn& turn) {
    std::vector<Member> members = {{"role", Text(turn.role)}};
    const bool one = turn.parts.size() == 1 && !turn.parts[0].starts_with("data:");
    if (one && (plain_ || *rc::gen::arbitrary<bool>())) {
      members.push_back({"content", Text(turn.parts[0])});
    } else if (!turn.parts.empty()) {
      std::vector<std::string> parts;
      for (const std::string& part : turn.parts) parts.push_back(Part(part));
      members.push_back({"content", Array(parts)});
    } else if (!plain_ && *rc::gen::arbitrary<bool>()) {
      members.push_back({"content", "null"});
    }
    if (!turn.tool_call.empty()) {
      const std::string function =
          Object({{"name", Text(turn.tool_call)}, {"arguments", "\"{}\""}});
      members.push_back({"tool_calls", Array({Object({{"id", "\"1\""}, {"function", function}})})});
    }
    if (!plain_ && *rc::gen::arbitrary<bool>()) members.push_back({"id", "[[\"ignored\"]]"});
    return Object(members);
  }

  // With a last turn that fills blocks, so that all of the prompt is in the chain.
  std::string Body(const ChatPrompt& prompt) {
    std::vector<std::string> turns;
    for (const ChatTurn& turn : prompt.turns) turns.push_back(Turn(turn));
    turns.push_back(R"({"role":"user","content":")" + std::string(2 * kTextBlockBytes, 'z') +
                    "\"}");
    std::vector<Member> members = {{"model", Text("m")}, {"messages", Array(turns)}};
    if (!prompt.tools.empty()) {
      std::vector<std::string> tools;
      for (const std::string& tool : prompt.tools) {
        const std::string function =
            Object({{"name", Text(tool)}, {"parameters", R"({"type":"object"})"}});
        tools.push_back(Object({{"type", "\"function\""}, {"function", function}}));
      }
      members.push_back({"tools", Array(tools)});
    }
    if (!plain_) members.push_back({"temperature", "0.5"});
    return Space() + Object(members) + Space();
  }

 private:
  std::string Escaped(const std::string& character) {
    if (character == "\n" && *rc::gen::arbitrary<bool>()) return "\\n";
    if (character == "/" && *rc::gen::arbitrary<bool>()) return "\\/";
    if (character == "\"" && *rc::gen::arbitrary<bool>()) return "\\\"";
    std::uint32_t code = static_cast<unsigned char>(character[0]);
    if (character.size() > 1) code &= 0xFFu >> (character.size() + 1);
    for (std::size_t i = 1; i < character.size(); ++i) {
      code = code << 6 | (static_cast<unsigned char>(character[i]) & 0x3F);
    }
    char out[16];
    if (code < 0x10000) {
      std::snprintf(out, sizeof(out), "\\u%04x", code);
    } else {
      std::snprintf(out, sizeof(out), "\\u%04X\\u%04x", 0xD800 + ((code - 0x10000) >> 10),
                    0xDC00 + (code & 0x3FF));
    }
    return out;
  }

  static void Shuffle(std::vector<Member>& members) {
    for (std::size_t i = members.size(); i > 1; --i) {
      std::swap(members[i - 1], members[*rc::gen::inRange<std::size_t>(0, i)]);
    }
  }

  bool plain_;
};

RequestPrefix ScanChat(const std::string& body) {
  RequestScanner scanner;
  const Result<RequestPrefix> prefix = scanner.Scan(RequestKind::kChat, body);
  if (!prefix) RC_FAIL(prefix.error().message + "\n" + body);
  RC_ASSERT(prefix->known);
  return *prefix;
}

RC_GTEST_PROP(RequestPrefixProperty, HowItIsWrittenDoesNotCount, ()) {
  const ChatPrompt prompt = ArbitraryPrompt();
  const RequestPrefix plain = ScanChat(Writer(true).Body(prompt));
  const RequestPrefix other = ScanChat(Writer(false).Body(prompt));
  RC_ASSERT(!plain.text.empty());
  RC_ASSERT(plain.text == other.text);
  RC_ASSERT(plain.text_bytes == other.text_bytes);
  RC_ASSERT(plain.media_items == other.media_items);
}

RC_GTEST_PROP(RequestPrefixProperty, WhatItSaysCounts, ()) {
  const ChatPrompt one = ArbitraryPrompt();
  ChatPrompt two = ArbitraryPrompt();
  if (*rc::gen::arbitrary<bool>()) {
    // Nearly the same: one letter of one part.
    two = one;
    if (two.turns.empty()) two.turns.emplace_back();
    ChatTurn& turn = two.turns[*rc::gen::inRange<std::size_t>(0, two.turns.size())];
    if (turn.parts.empty()) turn.parts.emplace_back("t");
    turn.parts.back() += "x";
  } else if (two == one) {
    two.turns.push_back({.role = "user", .parts = {}, .tool_call = {}});
  }
  const RequestPrefix first = ScanChat(Writer(true).Body(one));
  const RequestPrefix second = ScanChat(Writer(true).Body(two));
  // The last block has all before it in its hash.
  RC_ASSERT(first.text.back() != second.text.back());
}

RC_GTEST_PROP(RequestPrefixProperty, ACommonBeginIsACommonChain, ()) {
  ChatPrompt prompt = ArbitraryPrompt();
  const RequestPrefix shorter = ScanChat(Writer(true).Body(prompt));
  const ChatTurn tail{
      .role = "user", .parts = {std::string(2 * kTextBlockBytes, 'z')}, .tool_call = {}};
  prompt.turns.push_back(tail);
  const RequestPrefix longer = ScanChat(Writer(false).Body(prompt));
  RC_ASSERT(longer.text.size() > shorter.text.size());
  RC_ASSERT(std::equal(shorter.text.begin(), shorter.text.end(), longer.text.begin()));
}

RC_GTEST_PROP(RequestPrefixProperty, TokenIdsAreKeptAsTheyAre, ()) {
  const auto tokens = *rc::gen::nonEmpty(rc::gen::arbitrary<std::vector<TokenId>>());
  Writer writer(false);
  std::vector<std::string> elements;
  for (const TokenId token : tokens) elements.push_back(std::to_string(token));
  RequestScanner scanner;
  const Result<RequestPrefix> prefix =
      scanner.Scan(RequestKind::kCompletion, writer.Object({{"prompt", writer.Array(elements)}}));
  RC_ASSERT(prefix.has_value());
  RC_ASSERT(prefix->token_ids == tokens);
}

RC_GTEST_PROP(RequestPrefixProperty, CutAnywhereItIsRefused, ()) {
  const std::string body = Writer(true).Body(ArbitraryPrompt());
  RequestScanner scanner;
  const std::string cut = body.substr(0, *rc::gen::inRange<std::size_t>(0, body.size()));
  RC_ASSERT(!scanner.Scan(RequestKind::kChat, cut).has_value());
}

}  // namespace
}  // namespace sublet
