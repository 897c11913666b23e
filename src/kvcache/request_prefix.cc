#include "kvcache/request_prefix.h"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "kvcache/json_text.h"
#include "kvcache/prompt_renderer.h"

namespace sublet {
namespace {

using simdjson::ondemand::json_type;
using JsonValue = simdjson::ondemand::value;

static_assert(kScanPadding >= simdjson::SIMDJSON_PADDING);

// The parts of a prompt, in the order in which chat templates write them.
enum Section { kFunctions, kTools, kDocuments, kInstructions, kTurns, kSectionCount };

// What changes a prompt as a whole.
enum Shape { kTemplate, kTemplateArguments, kEffort, kReasoning, kShapeCount };

enum class TopKey {
  kModel,
  kSalt,
  kSessionId,
  kPromptCacheKey,
  kUser,
  kStream,
  kN,
  kBestOf,
  kPriority,
  kMaxTokens,
  kMaxCompletionTokens,
  kMaxOutputTokens,
  kChatTemplate,
  kChatTemplateKwargs,
  kReasoningEffort,
  kReasoning,
  kFunctions,
  kTools,
  kDocuments,
  kInstructions,
  kMessages,
  kPrompt,
  kInput,
  kUnknown,
};

struct TopKeyName {
  std::string_view name;
  TopKey key;
};
constexpr TopKeyName kTopKeys[] = {
    {"model", TopKey::kModel},
    {"messages", TopKey::kMessages},
    {"stream", TopKey::kStream},
    {"max_tokens", TopKey::kMaxTokens},
    {"prompt", TopKey::kPrompt},
    {"input", TopKey::kInput},
    {"tools", TopKey::kTools},
    {"user", TopKey::kUser},
    {"n", TopKey::kN},
    {"cache_salt", TopKey::kSalt},
    {"session_id", TopKey::kSessionId},
    {"prompt_cache_key", TopKey::kPromptCacheKey},
    {"best_of", TopKey::kBestOf},
    {"priority", TopKey::kPriority},
    {"max_completion_tokens", TopKey::kMaxCompletionTokens},
    {"max_output_tokens", TopKey::kMaxOutputTokens},
    {"chat_template", TopKey::kChatTemplate},
    {"chat_template_kwargs", TopKey::kChatTemplateKwargs},
    {"reasoning_effort", TopKey::kReasoningEffort},
    {"reasoning", TopKey::kReasoning},
    {"functions", TopKey::kFunctions},
    {"documents", TopKey::kDocuments},
    {"instructions", TopKey::kInstructions},
};

TopKey TopKeyOf(std::string_view name) {
  for (const TopKeyName& known : kTopKeys) {
    if (known.name == name) return known.key;
  }
  return TopKey::kUnknown;
}

// The key that holds the prompt itself.
TopKey PromptKey(RequestKind kind) {
  switch (kind) {
    case RequestKind::kChat:
      return TopKey::kMessages;
    case RequestKind::kCompletion:
      return TopKey::kPrompt;
    default:
      return TopKey::kInput;
  }
}

int Saturated(std::int64_t value) {
  using Limits = std::numeric_limits<int>;
  return static_cast<int>(std::clamp<std::int64_t>(value, Limits::min(), Limits::max()));
}

std::size_t TokensOfText(std::size_t bytes) {
  return (bytes + 3) / 4;
}

constexpr ScanFault kRepeatedKey = {"an object has a key twice"};
constexpr ScanFault kLongName = {"a model, salt or session of more than 4096 bytes"};
constexpr ScanFault kBadName = {"a model, salt or session that is no text"};

}  // namespace

RequestKind RequestKindOf(std::string_view path) {
  path = path.substr(0, path.find('?'));
  while (path.ends_with('/')) path.remove_suffix(1);
  if (path.ends_with("/chat/completions")) return RequestKind::kChat;
  if (path.ends_with("/completions")) return RequestKind::kCompletion;
  if (path.ends_with("/responses")) return RequestKind::kResponses;
  if (path.ends_with("/embeddings")) return RequestKind::kEmbedding;
  return RequestKind::kOther;
}

std::size_t RequestPrefix::PromptTokens() const {
  return token_ids.size() + TokensOfText(text_bytes) +
         static_cast<std::size_t>(media_items) * kMediaTokensAssumed;
}

class RequestScanner::Impl {
 public:
  Result<RequestPrefix> Scan(RequestKind kind, const std::string& body, const ScanOptions& options);

 private:
  void Begin(RequestKind kind);
  ScanFault Document(const std::string& body);
  ScanFault Top(simdjson::ondemand::field& field);
  ScanFault Name(JsonValue value, std::string& name);
  ScanFault Number(JsonValue value, std::optional<std::int64_t>& number);
  ScanFault Flag(JsonValue value, bool& flag);
  ScanFault ShapeOf(JsonValue value, Shape shape);
  ScanFault SectionOf(TopKey key, JsonValue value);
  ScanFault Turns(TopKey key, JsonValue value);
  ScanFault Prompt(JsonValue value);
  ScanFault PromptList(JsonValue value);
  ScanFault ListedPrompt(JsonValue value, json_type type);
  ScanFault TokenIds(JsonValue value, std::vector<TokenId>* ids);
  ScanFault TokenNumber(std::string_view token, std::vector<TokenId>* ids);
  ScanFault Checked(JsonValue value) { return renderer_.Json(value, 2, nullptr); }
  void Misfit() { misfit_ = true; }
  RequestPrefix Finish(const ScanOptions& options);

  // Grows in powers of two: simdjson allocates anew for each size that it has not seen.
  static constexpr std::size_t kCapacityMin = 64u << 10;

  std::unique_ptr<simdjson::ondemand::parser> parser_;
  std::string padded_;
  PromptRenderer renderer_;
  std::array<TextBlocks, kSectionCount> sections_;
  TextBlocks shape_;

  // Of the body under way.
  RequestKind kind_ = RequestKind::kOther;
  RequestPrefix found_;
  std::array<std::uint64_t, kShapeCount> shapes_ = {};
  std::string session_id_, cache_key_, user_;
  std::optional<std::int64_t> n_, best_of_, priority_;
  std::array<std::optional<std::int64_t>, 3> output_max_;  // As TopKey has them.
  std::uint32_t seen_ = 0;                                 // Bits of TopKey.
  bool misfit_ = false;                                    // Not a prompt as we know it.
};

void RequestScanner::Impl::Begin(RequestKind kind) {
  kind_ = kind;
  found_ = {};
  renderer_.Reset();
  for (TextBlocks& section : sections_) section.Clear();
  shapes_ = {};
  session_id_.clear();
  cache_key_.clear();
  user_.clear();
  n_ = best_of_ = priority_ = std::nullopt;
  output_max_ = {};
  seen_ = 0;
  misfit_ = false;
}

Result<RequestPrefix> RequestScanner::Impl::Scan(RequestKind kind, const std::string& body,
                                                 const ScanOptions& options) {
  Begin(kind);
  if (kind == RequestKind::kOther) return RequestPrefix();
  if (body.size() > kRequestBytesMax) {
    return Fail(ErrorCode::kInvalid, "the body has more than 64 MiB");
  }
  const ScanFault fault = Document(body);
  if (body.size() > kScannerKeepsBytes) {
    parser_.reset();
    padded_ = {};
    sections_ = {};
  }
  if (fault) return Fail(ErrorCode::kInvalid, std::string("the body is refused: ") + fault.what);
  return Finish(options);
}

ScanFault RequestScanner::Impl::Document(const std::string& body) {
  const std::string* text = &body;
  if (body.capacity() < body.size() + kScanPadding) {
    padded_.clear();
    padded_.reserve(body.size() + kScanPadding);
    padded_ = body;
    text = &padded_;
  }
  if (!parser_) parser_ = std::make_unique<simdjson::ondemand::parser>();
  if (parser_->capacity() < body.size()) {
    const std::size_t capacity = std::bit_ceil(std::max(body.size(), kCapacityMin));
    if (const auto error = parser_->allocate(capacity)) return FaultOf(error);
  }
  simdjson::ondemand::document document;
  if (const auto error =
          parser_->iterate(text->data(), text->size(), text->size() + kScanPadding).get(document)) {
    return FaultOf(error);
  }
  simdjson::ondemand::json_type type;
  if (const auto error = document.type().get(type)) return FaultOf(error);
  if (type != json_type::object) {
    Misfit();
    return {};
  }
  simdjson::ondemand::object object;
  if (const auto error = document.get_object().get(object)) return FaultOf(error);
  for (auto result : object) {
    simdjson::ondemand::field field;
    if (const auto error = std::move(result).get(field)) return FaultOf(error);
    if (const ScanFault fault = Top(field)) return fault;
  }
  // Nothing may follow the object: an engine would take the one or the other.
  if (document.current_location().error() != simdjson::OUT_OF_BOUNDS) {
    return {"something follows the object"};
  }
  return {};
}

ScanFault RequestScanner::Impl::Top(simdjson::ondemand::field& field) {
  std::string_view name;
  renderer_.ForgetKeys();
  if (const ScanFault fault = renderer_.Key(field, name)) return fault;
  const TopKey key = TopKeyOf(name);
  JsonValue value = field.value();
  if (key == TopKey::kUnknown) return Checked(value);
  const std::uint32_t bit = 1u << static_cast<unsigned>(key);
  if ((seen_ & bit) != 0) return kRepeatedKey;
  seen_ |= bit;
  switch (key) {
    case TopKey::kModel:
      return Name(value, found_.model);
    case TopKey::kSalt:
      return Name(value, found_.salt);
    case TopKey::kSessionId:
      return Name(value, session_id_);
    case TopKey::kPromptCacheKey:
      return Name(value, cache_key_);
    case TopKey::kUser:
      return Name(value, user_);
    case TopKey::kStream:
      return Flag(value, found_.stream);
    case TopKey::kN:
      return Number(value, n_);
    case TopKey::kBestOf:
      return Number(value, best_of_);
    case TopKey::kPriority:
      return Number(value, priority_);
    case TopKey::kMaxTokens:
      return Number(value, output_max_[0]);
    case TopKey::kMaxCompletionTokens:
      return Number(value, output_max_[1]);
    case TopKey::kMaxOutputTokens:
      return Number(value, output_max_[2]);
    case TopKey::kChatTemplate:
      return ShapeOf(value, kTemplate);
    case TopKey::kChatTemplateKwargs:
      return ShapeOf(value, kTemplateArguments);
    case TopKey::kReasoningEffort:
      return ShapeOf(value, kEffort);
    case TopKey::kReasoning:
      return ShapeOf(value, kReasoning);
    default:
      return SectionOf(key, value);
  }
}

// ---- what stands beside the prompt -------------------------------------------------------------

ScanFault RequestScanner::Impl::Name(JsonValue value, std::string& name) {
  json_type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  if (type != json_type::string) return Checked(value);
  const std::optional<std::string_view> raw = StringInside(value.raw_json_token());
  if (!raw) return Checked(value);
  // An escape has up to twelve bytes for four.
  if (raw->size() > 3 * kRequestNameBytesMax) return kLongName;
  bool lone_surrogate = false;
  if (!ForEachRun(
          *raw, [&name](std::string_view run) { name += run; }, &lone_surrogate) ||
      lone_surrogate) {
    return kBadName;
  }
  return name.size() > kRequestNameBytesMax ? kLongName : ScanFault();
}

ScanFault RequestScanner::Impl::Number(JsonValue value, std::optional<std::int64_t>& number) {
  json_type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  if (type == json_type::number) number = IntegerOf(value.raw_json_token());
  return Checked(value);
}

ScanFault RequestScanner::Impl::Flag(JsonValue value, bool& flag) {
  json_type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  if (type == json_type::boolean) flag = TrimRight(value.raw_json_token()) == "true";
  return Checked(value);
}

ScanFault RequestScanner::Impl::ShapeOf(JsonValue value, Shape shape) {
  json_type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  if (type == json_type::null) return Checked(value);
  shape_.Clear();
  if (const ScanFault fault = renderer_.Json(value, 2, &shape_)) return fault;
  shapes_[shape] = shape_.Digest() | 1;  // 0: absent.
  return {};
}

// ---- the prompt --------------------------------------------------------------------------------

ScanFault RequestScanner::Impl::SectionOf(TopKey key, JsonValue value) {
  json_type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  const bool conversation = kind_ != RequestKind::kCompletion;
  if (type == json_type::null || !conversation) {
    return key == PromptKey(kind_) && type != json_type::null ? Turns(key, value) : Checked(value);
  }
  switch (key) {
    case TopKey::kFunctions:
      return renderer_.Items(value, 2, 1, sections_[kFunctions]);
    case TopKey::kTools:
      return renderer_.Items(value, 2, 2, sections_[kTools]);
    case TopKey::kDocuments:
      return renderer_.Items(value, 2, 1, sections_[kDocuments]);
    case TopKey::kInstructions:
      if (kind_ != RequestKind::kResponses) return Checked(value);
      return renderer_.Json(value, 2, &sections_[kInstructions]);
    default:
      break;
  }
  // vLLM's embeddings of a conversation have messages in place of the input.
  const bool messages =
      key == TopKey::kMessages && (kind_ == RequestKind::kChat || kind_ == RequestKind::kEmbedding);
  if (!messages && key != PromptKey(kind_)) return Checked(value);
  return Turns(key, value);
}

ScanFault RequestScanner::Impl::Turns(TopKey key, JsonValue value) {
  if (found_.known) Misfit();  // Messages and an input at once.
  json_type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  found_.known = true;
  TextBlocks& out = sections_[kTurns];
  if (key == TopKey::kMessages) {
    if (type == json_type::array) return renderer_.Messages(value, 2, out);
  } else if (kind_ == RequestKind::kResponses) {
    if (type == json_type::array) return renderer_.InputItems(value, 2, out);
    if (type == json_type::string) return renderer_.UserMessage(value, out);
  } else {
    return Prompt(value);
  }
  Misfit();
  return Checked(value);
}

ScanFault RequestScanner::Impl::Prompt(JsonValue value) {
  json_type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  if (type == json_type::array) return PromptList(value);
  if (type == json_type::string) return renderer_.Json(value, 2, &sections_[kTurns]);
  Misfit();
  return Checked(value);
}

ScanFault RequestScanner::Impl::PromptList(JsonValue value) {
  simdjson::ondemand::array array;
  if (const auto error = value.get_array().get(array)) return FaultOf(error);
  found_.prompts = 0;
  json_type first = json_type::null;
  for (auto result : array) {
    JsonValue element;
    json_type type;
    if (const auto error = std::move(result).get(element)) return FaultOf(error);
    if (const auto error = element.type().get(type)) return FaultOf(error);
    if (found_.prompts == 0) first = type;
    if (type != first) Misfit();
    ScanFault fault;
    if (type == json_type::number && type == first) {
      fault = TokenNumber(element.raw_json_token(), &found_.token_ids);
      found_.prompts = 1;
    } else {
      fault = ListedPrompt(element, type);
      found_.prompts = std::min(found_.prompts, std::numeric_limits<int>::max() - 1) + 1;
    }
    if (fault) return fault;
  }
  if (found_.prompts == 0) Misfit();
  return {};
}

ScanFault RequestScanner::Impl::ListedPrompt(JsonValue value, json_type type) {
  const bool first = found_.prompts == 0;
  if (type == json_type::string) {
    if (first) return renderer_.Json(value, 3, &sections_[kTurns]);
    found_.other_tokens += TokensOfText(value.raw_json_token().size());
    return renderer_.Json(value, 3, nullptr);
  }
  if (type == json_type::array) return TokenIds(value, first ? &found_.token_ids : nullptr);
  Misfit();
  return renderer_.Json(value, 3, nullptr);
}

ScanFault RequestScanner::Impl::TokenIds(JsonValue value, std::vector<TokenId>* ids) {
  simdjson::ondemand::array array;
  if (const auto error = value.get_array().get(array)) return FaultOf(error);
  for (auto result : array) {
    JsonValue element;
    json_type type;
    if (const auto error = std::move(result).get(element)) return FaultOf(error);
    if (const auto error = element.type().get(type)) return FaultOf(error);
    if (type != json_type::number) {
      Misfit();
      if (const ScanFault fault = renderer_.Json(element, 4, nullptr)) return fault;
      continue;
    }
    if (const ScanFault fault = TokenNumber(element.raw_json_token(), ids)) return fault;
  }
  return {};
}

ScanFault RequestScanner::Impl::TokenNumber(std::string_view token, std::vector<TokenId>* ids) {
  token = TrimRight(token);
  // Nearly always plain digits; what else a number may look like is IntegerOf()'s.
  std::uint64_t plain = 0;
  std::size_t digits = 0;
  while (digits < token.size() && digits < 10 && token[digits] >= '0' && token[digits] <= '9') {
    plain = plain * 10 + static_cast<std::uint64_t>(token[digits++] - '0');
  }
  const bool simple = digits == token.size() && digits > 0 && (token[0] != '0' || digits == 1);
  if (!simple) {
    if (!IsJsonNumber(token)) return FaultOf(simdjson::NUMBER_ERROR);
    const std::optional<std::int64_t> value = IntegerOf(token);
    plain = value && *value >= 0 ? static_cast<std::uint64_t>(*value) : ~std::uint64_t{0};
  }
  if (plain > std::numeric_limits<TokenId>::max()) {
    Misfit();
    return {};
  }
  if (ids != nullptr) {
    ids->push_back(static_cast<TokenId>(plain));
  } else {
    ++found_.other_tokens;
  }
  return {};
}

// ---- the end -----------------------------------------------------------------------------------

RequestPrefix RequestScanner::Impl::Finish(const ScanOptions& options) {
  RequestPrefix result = std::move(found_);
  if (!options.salt.empty()) result.salt = std::string(options.salt) + '\xFF' + result.salt;
  for (std::string* session : {&session_id_, &cache_key_, &user_}) {
    if (result.session.empty()) result.session = std::move(*session);
  }
  if (priority_) result.priority = Saturated(*priority_);
  for (const std::optional<std::int64_t>& tokens : output_max_) {
    if (tokens && *tokens >= 0) result.output_tokens_max = Saturated(*tokens);
  }
  result.known = result.known && !misfit_;
  if (!result.known) {
    result.token_ids.clear();
    result.prompts = 1;
    result.other_tokens = 0;
  }
  const std::int64_t choices = std::clamp<std::int64_t>(
      std::max(n_.value_or(1), best_of_.value_or(1)), 1, kRequestChoicesMax);
  result.choices = Saturated(choices * result.prompts);
  if (!result.known) return result;

  result.media_items = renderer_.media_items();
  std::size_t last = kSectionCount;
  while (last > 0 && sections_[last - 1].bytes() == 0) --last;
  if (last == 0) return result;
  BlockHash at = TextChainSeed({.model = result.model, .lora = {}, .salt = result.salt});
  for (std::size_t i = 0; i < shapes_.size(); ++i) {
    if (shapes_[i] == 0) continue;
    const std::uint64_t shape[] = {i, shapes_[i]};
    at = ExtendChain(at, std::string_view(reinterpret_cast<const char*>(shape), sizeof(shape)));
  }
  for (std::size_t i = 0; i < last; ++i) {
    if (i + 1 < last) sections_[i].Pad();
    result.text_bytes += sections_[i].bytes();
    for (const std::uint64_t hash : sections_[i].hashes()) {
      at = ExtendChain(at, std::string_view(reinterpret_cast<const char*>(&hash), sizeof(hash)));
      result.text.push_back(at);
    }
  }
  return result;
}

RequestScanner::RequestScanner() : impl_(std::make_unique<Impl>()) {}
RequestScanner::~RequestScanner() = default;
RequestScanner::RequestScanner(RequestScanner&&) noexcept = default;
RequestScanner& RequestScanner::operator=(RequestScanner&&) noexcept = default;

Result<RequestPrefix> RequestScanner::Scan(RequestKind kind, const std::string& body,
                                           const ScanOptions& options) {
  return impl_->Scan(kind, body, options);
}

}  // namespace sublet
