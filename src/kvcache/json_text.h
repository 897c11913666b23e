// kvcache/json_text.h
//
// What a string, a number or a word of JSON says, from its bytes in the document.
//
//   ForEachRun(R"(a\u0062c)", [&](std::string_view run) { hash.Update(run); });  // "a", "b", "c"
//
// simdjson finds the tokens and has checked UTF-8 and control characters; this reads them without a
// copy, since a prompt is mostly long strings with few escapes.
//
// A lone surrogate ("\ud800") is no Unicode, but JavaScript writes it where it cuts a string inside
// an emoji. In a prompt it counts as the three bytes that UTF-8 would have for it; a name that
// people and programs will see may not have it.
//
// Thread safety: pure.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace sublet {

// Decodes the escape at the begin of `raw`, which begins with a backslash, and takes it off.
// Returns the length of the UTF-8 in `out`, 0 where it is none. A lone surrogate is told.
int DecodeEscape(std::string_view& raw, char (&out)[4], bool& lone_surrogate);

// Gives the text between the quotes to `sink`, in pieces. False where an escape is none.
template <typename Sink>
bool ForEachRun(std::string_view raw, Sink&& sink, bool* lone_surrogate = nullptr) {
  while (!raw.empty()) {
    const void* found = std::memchr(raw.data(), '\\', raw.size());
    const std::size_t length =
        found == nullptr ? raw.size()
                         : static_cast<std::size_t>(static_cast<const char*>(found) - raw.data());
    if (length > 0) sink(raw.substr(0, length));
    raw.remove_prefix(length);
    if (raw.empty()) return true;
    char out[4];
    bool lone = false;
    const int size = DecodeEscape(raw, out, lone);
    if (size == 0) return false;
    if (lone && lone_surrogate != nullptr) *lone_surrogate = true;
    sink(std::string_view(out, static_cast<std::size_t>(size)));
  }
  return true;
}

// The bytes between the quotes of a token that begins with a quote; space may follow it.
std::optional<std::string_view> StringInside(std::string_view token);

// A whole integer, also as 1e3 or 7.0; what is beyond 64 bits is the nearest that isn't.
std::optional<std::int64_t> IntegerOf(std::string_view token);

// By RFC 8259; no space around it.
bool IsJsonNumber(std::string_view token);
// A number, true, false or null.
bool IsJsonAtom(std::string_view token);

// Without the space of JSON behind it.
std::string_view TrimRight(std::string_view token);

}  // namespace sublet
