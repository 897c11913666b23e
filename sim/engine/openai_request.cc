#include "engine/openai_request.h"

#include <fmt/format.h>
#include <simdjson.h>
#include <xxhash.h>

#include <utility>

#include "engine/generated_text.h"
#include "engine/tokenizer.h"

namespace sublet {
namespace {

namespace dom = simdjson::dom;

// What a client may ask for at a time: vLLM's bounds are of this order.
constexpr int kChoicesMax = 128;
constexpr std::size_t kPromptsMax = 2048;
constexpr int kOutputTokensMax = 1 << 20;
constexpr std::size_t kStopsMax = 16;

tl::unexpected<Error> Refuse(std::string message) {
  return Fail(ErrorCode::kInvalid, std::move(message));
}

bool Is(const simdjson::simdjson_result<dom::element>& value, dom::element_type type) {
  return !value.error() && value.value_unsafe().type() == type;
}

bool IsThere(const simdjson::simdjson_result<dom::element>& value) {
  return !value.error() && !value.value_unsafe().is_null();
}

bool BoolOf(dom::object object, std::string_view key) {
  bool value = false;
  return object[key].get(value) == simdjson::SUCCESS && value;
}

std::string TextOf(dom::object object, std::string_view key) {
  std::string_view value;
  return object[key].get(value) == simdjson::SUCCESS ? std::string(value) : std::string();
}

// Absent and null are none.
Result<std::optional<int>> IntOf(dom::object object, std::string_view key, int least, int most) {
  const auto value = object[key];
  if (!IsThere(value)) return std::nullopt;
  std::int64_t number = 0;
  if (value.get(number) != simdjson::SUCCESS || number < least || number > most) {
    return Refuse(fmt::format("{} must be a whole number from {} to {}", key, least, most));
  }
  return static_cast<int>(number);
}

Status AppendIds(dom::array array, std::vector<TokenId>& out) {
  for (const dom::element element : array) {
    std::uint64_t id = 0;
    if (element.get(id) != simdjson::SUCCESS || id > UINT32_MAX) {
      return Refuse("token ids must be numbers of 32 bits");
    }
    out.push_back(static_cast<TokenId>(id));
  }
  return {};
}

void AppendImage(std::string_view name, std::vector<TokenId>& out) {
  out.push_back(SpecialTokenId(SpecialToken::kImage));
  std::uint64_t mixed = XXH3_64bits(name.data(), name.size());
  for (int i = 1; i < OpenAiReader::kImageTokens; ++i) {
    mixed = MixBits(mixed);
    // Like two bytes of text, so that they can be shown.
    out.push_back((2u << 24) + static_cast<TokenId>(mixed & 0xffff));
  }
}

// Text, or a list of parts of which each is text or something that counts as an image.
Status AppendContent(dom::element content, std::vector<TokenId>& out) {
  if (content.is_null()) return {};
  if (content.is_string()) {
    Tokenize(content.get_string().value_unsafe(), out);
    return {};
  }
  dom::array parts;
  if (content.get(parts) != simdjson::SUCCESS) return Refuse("content must be text or a list");
  for (const dom::element part : parts) {
    dom::object object;
    if (part.get(object) != simdjson::SUCCESS) return Refuse("a part of content must be an object");
    std::string_view text;
    if (object["text"].get(text) == simdjson::SUCCESS) {
      Tokenize(text, out);
    } else {
      AppendImage(simdjson::minify(part), out);
    }
  }
  return {};
}

SpecialToken RoleToken(std::string_view role) {
  if (role == "system" || role == "developer") return SpecialToken::kSystem;
  if (role == "assistant") return SpecialToken::kAssistant;
  if (role == "tool" || role == "function") return SpecialToken::kTool;
  return SpecialToken::kUser;
}

Status AppendMessages(dom::array messages, std::vector<TokenId>& out) {
  for (const dom::element message : messages) {
    dom::object object;
    if (message.get(object) != simdjson::SUCCESS) return Refuse("a message must be an object");
    const std::string role = TextOf(object, "role");
    if (role.empty() && TextOf(object, "type").empty()) return Refuse("a message lacks its role");
    out.push_back(SpecialTokenId(RoleToken(role)));
    if (const auto content = object["content"]; !content.error()) {
      RETURN_IF_ERROR(AppendContent(content.value_unsafe(), out));
    }
    if (const auto calls = object["tool_calls"]; IsThere(calls)) {
      Tokenize(simdjson::minify(calls.value_unsafe()), out);
    }
    out.push_back(SpecialTokenId(SpecialToken::kEnd));
  }
  return {};
}

void BeginChat(dom::object body, std::vector<TokenId>& out) {
  out.push_back(SpecialTokenId(SpecialToken::kBegin));
  const auto tools = body["tools"];
  if (!Is(tools, dom::element_type::ARRAY)) return;
  out.push_back(SpecialTokenId(SpecialToken::kTools));
  Tokenize(simdjson::minify(tools.value_unsafe()), out);
  out.push_back(SpecialTokenId(SpecialToken::kEnd));
}

Result<std::vector<TokenId>> ChatPrompt(dom::object body) {
  std::vector<TokenId> prompt;
  dom::array messages;
  if (body["messages"].get(messages) != simdjson::SUCCESS || messages.size() == 0) {
    return Refuse("messages must be a list that isn't empty");
  }
  BeginChat(body, prompt);
  RETURN_IF_ERROR(AppendMessages(messages, prompt));
  prompt.push_back(SpecialTokenId(SpecialToken::kAssistant));
  return prompt;
}

Result<std::vector<TokenId>> ResponsePrompt(dom::object body) {
  std::vector<TokenId> prompt;
  BeginChat(body, prompt);
  if (const std::string instructions = TextOf(body, "instructions"); !instructions.empty()) {
    prompt.push_back(SpecialTokenId(SpecialToken::kSystem));
    Tokenize(instructions, prompt);
    prompt.push_back(SpecialTokenId(SpecialToken::kEnd));
  }
  const auto input = body["input"];
  if (Is(input, dom::element_type::STRING)) {
    prompt.push_back(SpecialTokenId(SpecialToken::kUser));
    Tokenize(input.get_string().value_unsafe(), prompt);
    prompt.push_back(SpecialTokenId(SpecialToken::kEnd));
  } else if (Is(input, dom::element_type::ARRAY)) {
    RETURN_IF_ERROR(AppendMessages(input.get_array().value_unsafe(), prompt));
  } else {
    return Refuse("input must be text or a list of messages");
  }
  prompt.push_back(SpecialTokenId(SpecialToken::kAssistant));
  return prompt;
}

// Text, token ids, or a list of either.
Result<std::vector<std::vector<TokenId>>> PlainPrompts(dom::object body, std::string_view key) {
  std::vector<std::vector<TokenId>> prompts;
  const auto value = body[key];
  if (Is(value, dom::element_type::STRING)) {
    prompts.push_back(Tokenize(value.get_string().value_unsafe()));
    return prompts;
  }
  dom::array list;
  if (value.get(list) != simdjson::SUCCESS || list.size() == 0) {
    return Refuse(fmt::format("{} must be text, token ids, or a list of these", key));
  }
  const dom::element first = list.at(0).value_unsafe();
  if (first.is_number()) {
    RETURN_IF_ERROR(AppendIds(list, prompts.emplace_back()));
    return prompts;
  }
  if (list.size() > kPromptsMax) return Refuse(fmt::format("more than {} prompts", kPromptsMax));
  for (const dom::element element : list) {
    dom::array ids;
    if (element.is_string()) {
      prompts.push_back(Tokenize(element.get_string().value_unsafe()));
    } else if (element.get(ids) == simdjson::SUCCESS) {
      RETURN_IF_ERROR(AppendIds(ids, prompts.emplace_back()));
    } else {
      return Refuse(fmt::format("{} must be text, token ids, or a list of these", key));
    }
  }
  return prompts;
}

Status ReadStop(dom::object body, std::vector<std::string>& stop) {
  const auto value = body["stop"];
  if (!IsThere(value)) return {};
  if (Is(value, dom::element_type::STRING)) {
    stop.emplace_back(value.get_string().value_unsafe());
  } else {
    dom::array list;
    if (value.get(list) != simdjson::SUCCESS) return Refuse("stop must be text or a list of texts");
    for (const dom::element element : list) {
      std::string_view text;
      if (element.get(text) != simdjson::SUCCESS) return Refuse("stop must be a list of texts");
      stop.emplace_back(text);
    }
  }
  std::erase(stop, "");
  if (stop.size() > kStopsMax) return Refuse(fmt::format("more than {} stops", kStopsMax));
  return {};
}

void ReadManner(dom::object body, OpenAiRequest& request) {
  request.model = TextOf(body, "model");
  request.stream = BoolOf(body, "stream");
  dom::object options;
  if (body["stream_options"].get(options) == simdjson::SUCCESS) {
    request.include_usage = BoolOf(options, "include_usage");
  }
}

Status ReadLimits(dom::object body, OpenAiRequest& request) {
  for (const std::string_view key : {"max_tokens", "max_completion_tokens", "max_output_tokens"}) {
    ASSIGN_OR_RETURN(const std::optional<int> most, IntOf(body, key, 1, kOutputTokensMax));
    if (most) request.output_tokens_max = most;
  }
  ASSIGN_OR_RETURN(const std::optional<int> choices, IntOf(body, "n", 1, kChoicesMax));
  request.choices = choices.value_or(1);
  ASSIGN_OR_RETURN(const std::optional<int> dimensions, IntOf(body, "dimensions", 1, 4096));
  if (dimensions) request.dimensions = *dimensions;
  request.base64 = TextOf(body, "encoding_format") == "base64";
  request.ignore_eos = BoolOf(body, "ignore_eos");
  request.salt = TextOf(body, "cache_salt");
  return ReadStop(body, request.stop);
}

Status ReadPrompts(dom::object body, OpenAiRequest& request) {
  switch (request.kind) {
    case OpenAiKind::kChat: {
      ASSIGN_OR_RETURN(request.prompts.emplace_back(), ChatPrompt(body));
      return {};
    }
    case OpenAiKind::kResponse: {
      ASSIGN_OR_RETURN(request.prompts.emplace_back(), ResponsePrompt(body));
      return {};
    }
    case OpenAiKind::kCompletion:
    case OpenAiKind::kEmbedding:
      break;
  }
  const bool completion = request.kind == OpenAiKind::kCompletion;
  ASSIGN_OR_RETURN(request.prompts, PlainPrompts(body, completion ? "prompt" : "input"));
  for (const std::vector<TokenId>& prompt : request.prompts) {
    if (prompt.empty()) return Refuse("a prompt is empty");
  }
  return {};
}

}  // namespace

class OpenAiReader::Impl {
 public:
  Result<dom::object> Parse(const std::string& body) {
    dom::element root;
    if (const auto error = parser_.parse(body).get(root)) {
      return Refuse(fmt::format("the body isn't JSON: {}", simdjson::error_message(error)));
    }
    dom::object object;
    if (root.get(object) != simdjson::SUCCESS) return Refuse("the body isn't a JSON object");
    return object;
  }

 private:
  dom::parser parser_;
};

OpenAiReader::OpenAiReader() : impl_(std::make_unique<Impl>()) {}
OpenAiReader::~OpenAiReader() = default;

Result<OpenAiRequest> OpenAiReader::Read(OpenAiKind kind, const std::string& body) {
  ASSIGN_OR_RETURN(const dom::object object, impl_->Parse(body));
  OpenAiRequest request{.kind = kind};
  ReadManner(object, request);
  RETURN_IF_ERROR(ReadLimits(object, request));
  RETURN_IF_ERROR(ReadPrompts(object, request));
  return request;
}

Result<OpenAiRequest> OpenAiReader::Skim(OpenAiKind kind, const std::string& body) {
  ASSIGN_OR_RETURN(const dom::object object, impl_->Parse(body));
  OpenAiRequest request{.kind = kind};
  ReadManner(object, request);
  return request;
}

Result<std::vector<TokenId>> OpenAiReader::ReadTokenize(const std::string& body) {
  ASSIGN_OR_RETURN(const dom::object object, impl_->Parse(body));
  if (IsThere(object["messages"])) return ChatPrompt(object);
  std::string_view prompt;
  if (object["prompt"].get(prompt) != simdjson::SUCCESS) {
    return Refuse("there must be a prompt, which is text, or messages");
  }
  return Tokenize(prompt);
}

Result<std::vector<TokenId>> OpenAiReader::ReadDetokenize(const std::string& body) {
  ASSIGN_OR_RETURN(const dom::object object, impl_->Parse(body));
  dom::array ids;
  if (object["tokens"].get(ids) != simdjson::SUCCESS) return Refuse("tokens must be a list");
  std::vector<TokenId> tokens;
  RETURN_IF_ERROR(AppendIds(ids, tokens));
  return tokens;
}

}  // namespace sublet
