#include "engine/openai_answer.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

#include "engine/generated_text.h"

namespace sublet {
namespace {

std::string UsageJson(const AnswerUsage& usage) {
  return fmt::format(R"({{"prompt_tokens":{},"total_tokens":{},"completion_tokens":{},)"
                     R"("prompt_tokens_details":{{"cached_tokens":{}}}}})",
                     usage.prompt_tokens, usage.prompt_tokens + usage.output_tokens,
                     usage.output_tokens, usage.cached_tokens);
}

std::string ResponseUsageJson(const AnswerUsage& usage) {
  return fmt::format(
      R"({{"input_tokens":{},"input_tokens_details":{{"cached_tokens":{}}},"output_tokens":{},)"
      R"("output_tokens_details":{{"reasoning_tokens":0}},"total_tokens":{}}})",
      usage.prompt_tokens, usage.cached_tokens, usage.output_tokens,
      usage.prompt_tokens + usage.output_tokens);
}

std::string ReasonJson(std::string_view finish_reason) {
  return finish_reason.empty() ? "null" : JsonString(finish_reason);
}

// The one item of a response's output.
std::string MessageItem(std::string_view id, std::string_view status, std::string_view text) {
  const std::string part =
      status == "in_progress"
          ? ""
          : fmt::format(R"({{"type":"output_text","text":{},"annotations":[]}})", JsonString(text));
  return fmt::format(
      R"({{"id":"msg_{}","type":"message","status":"{}","role":"assistant","content":[{}]}})", id,
      status, part);
}

std::string_view ErrorType(int status) {
  switch (status) {
    case 400:
      return "BadRequestError";
    case 404:
      return "NotFoundError";
    case 429:
      return "RateLimitError";
    case 503:
      return "ServiceUnavailableError";
    default:
      return "InternalServerError";
  }
}

std::string Base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t j = 0; j < 3; ++j) {
      group = group << 8 | (j < count ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    }
    for (std::size_t j = 0; j < 4; ++j) {
      out += j <= count ? kDigits[group >> (18 - 6 * j) & 63] : '=';
    }
  }
  return out;
}

}  // namespace

void AppendJsonString(std::string_view text, std::string& out) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  out += '"';
}

std::string JsonString(std::string_view text) {
  std::string out;
  AppendJsonString(text, out);
  return out;
}

std::string OpenAiError(int status, std::string_view message, std::string_view param) {
  return fmt::format(R"({{"error":{{"message":{},"type":"{}","param":{},"code":{}}}}})",
                     JsonString(message), ErrorType(status), ReasonJson(param), status);
}

// ---- streams -----------------------------------------------------------------------------------

std::string AnswerFormat::Begin(int choices) {
  std::string events;
  if (head_.kind == OpenAiKind::kChat) {
    for (int i = 0; i < choices; ++i) events += Chunk(i, R"("role":"assistant","content":"")", {});
  } else if (head_.kind == OpenAiKind::kResponse) {
    const std::string object = ResponseObject("in_progress", {}, nullptr);
    events += Event("response.created", R"("response":)" + object);
    events += Event("response.in_progress", R"("response":)" + object);
    events += Event("response.output_item.added",
                    R"("output_index":0,"item":)" + MessageItem(head_.id, "in_progress", {}));
    events += Event("response.content_part.added",
                    fmt::format(R"("item_id":"msg_{}","output_index":0,"content_index":0,)"
                                R"("part":{{"type":"output_text","text":"","annotations":[]}})",
                                head_.id));
  }
  return events;
}

std::string AnswerFormat::Delta(int choice, std::string_view text) {
  if (text.empty()) return {};
  if (head_.kind == OpenAiKind::kResponse) {
    text_ += text;
    return Event("response.output_text.delta",
                 fmt::format(R"("item_id":"msg_{}","output_index":0,"content_index":0,"delta":{})",
                             head_.id, JsonString(text)));
  }
  const bool chat = head_.kind == OpenAiKind::kChat;
  return Chunk(choice, (chat ? R"("content":)" : R"("text":)") + JsonString(text), {});
}

std::string AnswerFormat::ChoiceEnd(int choice, std::string_view text,
                                    std::string_view finish_reason) {
  if (head_.kind == OpenAiKind::kResponse) {
    finish_reason_ = finish_reason;
    return Delta(choice, text);
  }
  const bool chat = head_.kind == OpenAiKind::kChat;
  return Chunk(choice, (chat ? R"("content":)" : R"("text":)") + JsonString(text), finish_reason);
}

std::string AnswerFormat::End(const AnswerUsage& usage) {
  if (head_.kind == OpenAiKind::kResponse) {
    const std::string where =
        fmt::format(R"("item_id":"msg_{}","output_index":0,"content_index":0)", head_.id);
    const std::string status = finish_reason_ == "length" ? "incomplete" : "completed";
    std::string events = Event("response.output_text.done",
                               fmt::format(R"({},"text":{})", where, JsonString(text_)));
    events += Event("response.content_part.done",
                    fmt::format(R"({},"part":{{"type":"output_text","text":{},"annotations":[]}})",
                                where, JsonString(text_)));
    events += Event("response.output_item.done",
                    R"("output_index":0,"item":)" + MessageItem(head_.id, status, text_));
    events += Event("response." + status, R"("response":)" + ResponseObject(status, text_, &usage));
    return events;
  }
  std::string events;
  if (head_.include_usage) {
    const bool chat = head_.kind == OpenAiKind::kChat;
    events = fmt::format(
        R"(data: {{"id":"{}","object":"{}","created":{},"model":{},"choices":[],"usage":{}}})"
        "\n\n",
        head_.id, chat ? "chat.completion.chunk" : "text_completion", head_.created_s,
        JsonString(head_.model), UsageJson(usage));
  }
  return events + "data: [DONE]\n\n";
}

std::string AnswerFormat::Chunk(int choice, std::string_view delta,
                                std::string_view finish_reason) const {
  const bool chat = head_.kind == OpenAiKind::kChat;
  return fmt::format(
      R"(data: {{"id":"{}","object":"{}","created":{},"model":{},"choices":[{{"index":{},{}{}{},)"
      R"("logprobs":null,"finish_reason":{}}}]}})"
      "\n\n",
      head_.id, chat ? "chat.completion.chunk" : "text_completion", head_.created_s,
      JsonString(head_.model), choice, chat ? R"("delta":{)" : "", delta, chat ? "}" : "",
      ReasonJson(finish_reason));
}

std::string AnswerFormat::Event(std::string_view type, std::string_view fields) {
  return fmt::format("event: {}\ndata: {{\"type\":\"{}\",\"sequence_number\":{},{}}}\n\n", type,
                     type, sequence_++, fields);
}

std::string AnswerFormat::ResponseObject(std::string_view status, std::string_view text,
                                         const AnswerUsage* usage) const {
  const bool begun = status == "in_progress";
  return fmt::format(
      R"({{"id":"{}","object":"response","created_at":{},"status":"{}","model":{},"error":null,)"
      R"("incomplete_details":{},"output":[{}],"parallel_tool_calls":true,"tool_choice":"auto",)"
      R"("tools":[],"usage":{}}})",
      head_.id, head_.created_s, status, JsonString(head_.model),
      status == "incomplete" ? R"({"reason":"max_output_tokens"})" : "null",
      begun ? "" : MessageItem(head_.id, status, text),
      usage == nullptr ? "null" : ResponseUsageJson(*usage));
}

// ---- at once -----------------------------------------------------------------------------------

std::string AnswerFormat::Whole(const std::vector<AnswerChoice>& choices,
                                const AnswerUsage& usage) const {
  if (head_.kind == OpenAiKind::kResponse) {
    const AnswerChoice& only = choices.front();
    const bool cut = only.finish_reason == "length";
    return ResponseObject(cut ? "incomplete" : "completed", only.text, &usage);
  }
  const bool chat = head_.kind == OpenAiKind::kChat;
  std::string list;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const std::string text = JsonString(choices[i].text);
    const std::string said =
        chat ? R"("message":{"role":"assistant","content":)" + text + "}" : R"("text":)" + text;
    list += fmt::format(R"({}{{"index":{},{},"logprobs":null,"finish_reason":{}}})",
                        i > 0 ? "," : "", i, said, ReasonJson(choices[i].finish_reason));
  }
  return fmt::format(
      R"({{"id":"{}","object":"{}","created":{},"model":{},"choices":[{}],"usage":{}}})", head_.id,
      chat ? "chat.completion" : "text_completion", head_.created_s, JsonString(head_.model), list,
      UsageJson(usage));
}

std::string EmbeddingsJson(const OpenAiRequest& request, std::string_view model,
                           std::int64_t prompt_tokens) {
  std::string list;
  for (std::size_t i = 0; i < request.prompts.size(); ++i) {
    const std::vector<TokenId>& prompt = request.prompts[i];
    std::uint64_t mixed = XXH3_64bits(prompt.data(), prompt.size() * sizeof(TokenId));
    std::vector<float> numbers;
    for (int d = 0; d < request.dimensions; ++d) {
      mixed = MixBits(mixed);
      numbers.push_back(static_cast<float>(mixed >> 40) / static_cast<float>(1 << 23) - 1);
    }
    std::string bytes(numbers.size() * sizeof(float), '\0');
    std::memcpy(bytes.data(), numbers.data(), bytes.size());
    const std::string value =
        request.base64 ? JsonString(Base64(bytes)) : fmt::format("[{}]", fmt::join(numbers, ","));
    list += fmt::format(R"({}{{"object":"embedding","index":{},"embedding":{}}})", i > 0 ? "," : "",
                        i, value);
  }
  return fmt::format(R"({{"object":"list","data":[{}],"model":{},)"
                     R"("usage":{{"prompt_tokens":{},"total_tokens":{}}}}})",
                     list, JsonString(model), prompt_tokens, prompt_tokens);
}

}  // namespace sublet
