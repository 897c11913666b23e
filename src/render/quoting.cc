#include "render/quoting.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace sublet {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kCommentColumns = 98;  // The text's; with "# " in front a line has 100.

// The code point that begins at `text[at]`, and its length in bytes; length 0 where it isn't UTF-8.
struct CodePoint {
  std::uint32_t value = 0;
  std::size_t length = 0;
};

CodePoint Decode(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  if (first < 0x80) return {first, 1};
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || at + length > text.size()) return {};
  std::uint32_t value = first & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return {};
    value = (value << 6) | (byte(at + i) & 0x3Fu);
  }
  constexpr std::array<std::uint32_t, 5> kSmallest = {0, 0, 0x80, 0x800, 0x10000};
  if (value < kSmallest[length] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
    return {};
  }
  return {value, length};
}

// C0, DEL and C1 controls; U+2028 and U+2029 end a line for some readers; the byte order mark and
// the non-characters are forbidden in YAML or replaced by its writers.
bool IsForbidden(std::uint32_t c) {
  if (c == '\t' || c == '\n') return false;
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x2028 || c == 0x2029 || c == 0xFEFF ||
         (c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE;
}

bool IsWordCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

std::string Doubled(std::string_view text, char special) {
  std::string out;
  for (const char c : text) {
    if (c == special) out += c;
    out += c;
  }
  return out;
}

// Words that every YAML reader, old ones too, takes for a string.
bool IsPlainInYaml(std::string_view text) {
  static constexpr std::array<std::string_view, 10> kReserved = {
      "y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan"};
  if (text.empty() || IsWordCharacter(text.front()) == false) return false;
  if (text.front() >= '0' && text.front() <= '9') return false;
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
    return IsWordCharacter(c) || c == '.' || c == '/' || c == '-';
  });
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return plain && std::find(kReserved.begin(), kReserved.end(), lower) == kReserved.end();
}

// A literal block keeps a text only if its lines have no blanks at their ends and its first line is
// not indented, and the default chomping gives back exactly one newline.
bool FitsLiteralBlock(std::string_view text) {
  if (text.size() < 2 || text.back() != '\n' || text[text.size() - 2] == '\n') return false;
  if (text.front() == ' ' || text.front() == '\n') return false;
  char before = '\n';
  for (const char c : text) {
    if (c != '\n' && (c < ' ' || c > '~')) return false;
    if (c == '\n' && before == ' ') return false;
    before = c;
  }
  return true;
}

void EmitString(YAML::Emitter& out, const std::string& text) {
  if (IsPlainInYaml(text)) {
    out << text;
  } else if (FitsLiteralBlock(text)) {
    // The emitter ends the block with the newline that belongs to the text.
    out << YAML::Literal << text.substr(0, text.size() - 1);
  } else {
    out << YAML::DoubleQuoted << text;
  }
}

void Emit(YAML::Emitter& out, const ordered_json& value) {
  switch (value.type()) {
    case ordered_json::value_t::object:
      if (value.empty()) {
        out << YAML::Flow;
      }
      out << YAML::BeginMap;
      for (const auto& [key, field] : value.items()) {
        out << YAML::Key;
        EmitString(out, key);
        out << YAML::Value;
        Emit(out, field);
      }
      out << YAML::EndMap;
      return;
    case ordered_json::value_t::array:
      if (value.empty()) out << YAML::Flow;
      out << YAML::BeginSeq;
      for (const ordered_json& item : value) Emit(out, item);
      out << YAML::EndSeq;
      return;
    case ordered_json::value_t::string:
      return EmitString(out, value.get_ref<const std::string&>());
    case ordered_json::value_t::boolean:
      out << value.get<bool>();
      return;
    default:
      CHECK(value.is_number_integer());
      out << value.get<std::int64_t>();
  }
}

}  // namespace

Status CheckText(std::string_view text, std::string_view what) {
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = Decode(text, at);
    if (c.length == 0) return Fail(ErrorCode::kInvalid, fmt::format("{}: not UTF-8", what));
    if (IsForbidden(c.value)) {
      return Fail(ErrorCode::kInvalid,
                  fmt::format("{}: has the control character U+{:04X}", what, c.value));
    }
    at += c.length;
  }
  return {};
}

std::string ShellQuote(std::string_view text) {
  static constexpr std::string_view kBare = "./:@%+,-=";
  const bool bare = !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return IsWordCharacter(c) || kBare.find(c) != std::string_view::npos;
  });
  if (bare) return std::string(text);
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c;
    }
  }
  return out + "'";
}

std::string KubernetesLiteral(std::string_view text) {
  return Doubled(text, '$');
}

std::string ComposeLiteral(std::string_view text) {
  return Doubled(text, '$');
}

std::string SystemdLiteral(std::string_view text) {
  return Doubled(text, '%');
}

std::string CelString(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

std::string Comment(std::string_view text) {
  std::string out;
  std::string line;
  const auto flush = [&] {
    if (!line.empty()) out += "# " + line + "\n";
    line.clear();
  };
  std::string word;
  const auto add_word = [&] {
    if (word.empty()) return;
    if (!line.empty() && line.size() + 1 + word.size() > kCommentColumns) flush();
    if (!line.empty()) line += ' ';
    line += std::exchange(word, {});
  };
  for (const char c : text) {
    // Whatever else could end a line was refused by CheckText(), or becomes a blank here.
    if (static_cast<unsigned char>(c) <= ' ' || c == 0x7F) {
      add_word();
    } else {
      word += c;
    }
  }
  add_word();
  flush();
  return out;
}

std::string YamlText(const ordered_json& value) {
  YAML::Emitter out;
  out.SetIndent(2);
  Emit(out, value);
  CHECK(out.good());
  return std::string(out.c_str()) + "\n";
}

}  // namespace sublet
