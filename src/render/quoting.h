// render/quoting.h
//
// Text put into files of another language so that it arrives there unchanged.
//
//   ShellQuote("it's $5")           // 'it'\''s $5'
//   KubernetesLiteral("$(PATH)")    // $$(PATH)
//   ComposeLiteral("$HOME")         // $$HOME
//
// None of these can carry every string. CheckText() says which ones can be carried: UTF-8 without
// control characters other than tab and newline. Everything from the plan passes it first
// (render/deployment.h), so the functions here have no errors.
//
// Thread safety: no shared state.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sublet {

// Fails with kInvalid where `text` is not UTF-8 or holds a control character other than tab and
// newline, or a code point that YAML files may not hold. `what` begins the message.
Status CheckText(std::string_view text, std::string_view what);

// One word for sh. Words of letters, digits and "_./:=@%+,-" stay bare; others get single quotes.
std::string ShellQuote(std::string_view text);

// For container commands, arguments and environment values in a pod: $(NAME) would be replaced.
std::string KubernetesLiteral(std::string_view text);

// For every value in a compose file: $NAME would be replaced.
std::string ComposeLiteral(std::string_view text);

// For systemd unit files, outside of commands: % begins a specifier.
std::string SystemdLiteral(std::string_view text);

// A CEL string in single quotes.
std::string CelString(std::string_view text);

// "# " before each line, line breaks in `text` become blanks, wrapped at 100 columns.
std::string Comment(std::string_view text);

// A YAML document, in block style, through yaml-cpp. Strings that another YAML reader might take
// for something else are quoted; a string of several lines which is text of ours (ASCII, ends with
// one newline) becomes a literal block.
std::string YamlText(const nlohmann::ordered_json& value);

}  // namespace sublet
