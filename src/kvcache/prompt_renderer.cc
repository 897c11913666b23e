#include "kvcache/prompt_renderer.h"

#include <algorithm>
#include <utility>

#include "kvcache/json_text.h"

namespace sublet {
namespace {

constexpr ScanFault kTooDeep = {"nested too deeply"};
constexpr ScanFault kBadEscape = {"a string has an escape that is none"};
constexpr ScanFault kBadString = {"a string does not end"};
constexpr ScanFault kBadAtom = {"neither a number nor true, false or null"};
constexpr ScanFault kTwice = {"an object has a key twice"};

// A message's fields that chat templates see, in the order of their rendering. Others (an id, a
// refusal) change nothing in front of a model.
constexpr std::string_view kMessageFields[] = {
    "role",      "name",    "tool_call_id", "reasoning_content",
    "reasoning", "content", "tool_calls",   "function_call",
};
constexpr std::string_view kContent = "content";
constexpr char kRoleName = '1';  // By their places in the list.
constexpr char kContentName = '6';

bool IsTextType(std::string_view type) {
  return type == "text" || type == "input_text" || type == "output_text";
}

// Types of content parts, and keys by which vLLM takes a part that has no type.
bool IsMedia(std::string_view name) {
  static constexpr std::string_view kNames[] = {
      "image_url", "input_image", "image",     "image_embeds", "image_pil",  "audio_url",
      "audio",     "input_audio", "video_url", "video",        "input_file", "file",
  };
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

// Between the quotes. Stage one has seen the closing one.
std::string_view RawKey(simdjson::ondemand::field& field, bool& escapes) {
  const char* const begin = field.key().raw();
  const char* end = begin;
  for (; *end != '"'; ++end) {
    if (*end != '\\') continue;
    escapes = true;
    ++end;
  }
  return {begin, static_cast<std::size_t>(end - begin)};
}

}  // namespace

ScanFault FaultOf(simdjson::error_code error) {
  return {simdjson::error_message(error)};
}

void PromptRenderer::Reset() {
  names_.clear();
  media_items_ = 0;
}

PromptRenderer::Field* PromptRenderer::Fields::Find(std::string_view key) {
  for (std::size_t i = 0; i < count; ++i) {
    if (list[i].key == key) return &list[i];
  }
  return nullptr;
}

ScanFault PromptRenderer::Key(simdjson::ondemand::field& field, std::string_view& key) {
  bool escapes = false;
  key = RawKey(field, escapes);
  if (!escapes) return {};
  std::string& name = names_.emplace_back();
  if (!ForEachRun(key, [&name](std::string_view run) { name += run; })) return kBadEscape;
  key = name;
  return {};
}

// ---- objects whose keys are read ---------------------------------------------------------------

ScanFault PromptRenderer::Sweep(Object& object, Fields& fields) {
  std::uint32_t ordinal = 0;
  for (auto result : object) {
    simdjson::ondemand::field field;
    if (const auto error = std::move(result).get(field)) return FaultOf(error);
    if (fields.count == kFieldsMax) {
      fields.too_many = true;
      return {};
    }
    Field& found = fields.list[fields.count];
    if (const ScanFault fault = Key(field, found.key)) return fault;
    if (fields.Find(found.key) != nullptr) return kTwice;
    if (const auto error = field.value().type().get(found.type)) return FaultOf(error);
    if (!found.IsContainer()) found.token = field.value().raw_json_token();
    found.ordinal = ordinal++;
    ++fields.count;
  }
  return {};
}

ScanFault PromptRenderer::Reopen(Object& object, const Field& field, Value& value) {
  if (const auto error = object.reset().error()) return FaultOf(error);
  std::uint32_t ordinal = 0;
  for (auto result : object) {
    if (const auto error = result.error()) return FaultOf(error);
    if (ordinal++ != field.ordinal) continue;
    value = std::move(result).value_unsafe().value();
    return {};
  }
  return FaultOf(simdjson::TAPE_ERROR);
}

ScanFault PromptRenderer::CheckRest(Object& object, const Fields& fields, int depth) {
  for (std::size_t i = 0; i < fields.count; ++i) {
    const Field& field = fields.list[i];
    if (field.done) continue;
    if (!field.IsContainer()) {
      if (const ScanFault fault = Token(field.type, field.token, nullptr)) return fault;
      continue;
    }
    Value value;
    if (const ScanFault fault = Reopen(object, field, value)) return fault;
    if (const ScanFault fault = Json(value, depth + 1, nullptr)) return fault;
  }
  return {};
}

ScanFault PromptRenderer::OpenItem(Value value, int depth, Object& object) {
  if (depth > kRequestDepthMax) return kTooDeep;
  if (const auto error = value.get_object().get(object)) return FaultOf(error);
  return {};
}

// ---- JSON --------------------------------------------------------------------------------------

ScanFault PromptRenderer::Token(Type type, std::string_view token, TextBlocks* out) {
  if (type != Type::string) {
    token = TrimRight(token);
    if (!IsJsonAtom(token)) return kBadAtom;
    if (out != nullptr) out->Mark(PromptMark::kAtom);
    if (out != nullptr) out->Text(token);
    return {};
  }
  const std::optional<std::string_view> raw = StringInside(token);
  if (!raw) return kBadString;
  if (out == nullptr) return ForEachRun(*raw, [](std::string_view) {}) ? ScanFault() : kBadEscape;
  out->Mark(PromptMark::kText);
  return ForEachRun(*raw, [out](std::string_view run) { out->Text(run); }) ? ScanFault()
                                                                           : kBadEscape;
}

ScanFault PromptRenderer::Array(Value value, int depth, TextBlocks* out) {
  simdjson::ondemand::array array;
  if (const auto error = value.get_array().get(array)) return FaultOf(error);
  if (out != nullptr) out->Mark(PromptMark::kArray);
  for (auto result : array) {
    Value element;
    if (const auto error = std::move(result).get(element)) return FaultOf(error);
    if (const ScanFault fault = Json(element, depth + 1, out)) return fault;
  }
  if (out != nullptr) out->Mark(PromptMark::kEnd);
  return {};
}

ScanFault PromptRenderer::AsWritten(Object& object, int depth, TextBlocks* out) {
  if (out != nullptr) out->Mark(PromptMark::kObject);
  for (auto result : object) {
    simdjson::ondemand::field field;
    if (const auto error = std::move(result).get(field)) return FaultOf(error);
    bool escapes = false;
    const std::string_view key = RawKey(field, escapes);
    if (out != nullptr) out->Mark(PromptMark::kText);
    const auto write = [out](std::string_view run) {
      if (out != nullptr) out->Text(run);
    };
    if (!ForEachRun(key, write)) return kBadEscape;
    if (const ScanFault fault = Json(field.value(), depth + 1, out)) return fault;
  }
  if (out != nullptr) out->Mark(PromptMark::kEnd);
  return {};
}

ScanFault PromptRenderer::Json(Value value, int depth, TextBlocks* out) {
  Type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  if (type != Type::object && type != Type::array) return Token(type, value.raw_json_token(), out);
  if (depth > kRequestDepthMax) return kTooDeep;
  if (type == Type::array) return Array(value, depth, out);
  Object object;
  if (const auto error = value.get_object().get(object)) return FaultOf(error);
  return AsWritten(object, depth, out);
}

ScanFault PromptRenderer::SortedFields(Object& object, Fields& fields, int depth, int levels,
                                       TextBlocks& out) {
  if (fields.too_many) {
    if (const auto error = object.reset().error()) return FaultOf(error);
    return AsWritten(object, depth, &out);
  }
  const auto begin = fields.list.begin();
  std::sort(begin, begin + static_cast<std::ptrdiff_t>(fields.count),
            [](const Field& a, const Field& b) { return a.key < b.key; });
  out.Mark(PromptMark::kObject);
  for (std::size_t i = 0; i < fields.count; ++i) {
    const Field& field = fields.list[i];
    if (field.done) continue;
    out.Mark(PromptMark::kText);
    out.Text(field.key);
    ScanFault fault;
    if (field.IsContainer()) {
      Value value;
      fault = Reopen(object, field, value);
      if (!fault) fault = Sorted(value, depth + 1, levels - 1, out);
    } else {
      fault = Token(field.type, field.token, &out);
    }
    if (fault) return fault;
  }
  out.Mark(PromptMark::kEnd);
  return {};
}

ScanFault PromptRenderer::Sorted(Value value, int depth, int levels, TextBlocks& out) {
  Type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  if (type != Type::object || levels <= 0) return Json(value, depth, &out);
  Object object;
  Fields fields;
  const KeysOfObject keys(names_);
  if (const ScanFault fault = OpenItem(value, depth, object)) return fault;
  if (const ScanFault fault = Sweep(object, fields)) return fault;
  return SortedFields(object, fields, depth, levels, out);
}

ScanFault PromptRenderer::Items(Value value, int depth, int levels, TextBlocks& out) {
  Type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  if (type != Type::array) {
    out.Mark(PromptMark::kItem);
    return Sorted(value, depth, levels, out);
  }
  simdjson::ondemand::array array;
  if (const auto error = value.get_array().get(array)) return FaultOf(error);
  for (auto result : array) {
    Value element;
    if (const auto error = std::move(result).get(element)) return FaultOf(error);
    out.Mark(PromptMark::kItem);
    if (const ScanFault fault = Sorted(element, depth + 1, levels, out)) return fault;
  }
  return {};
}

// ---- messages ----------------------------------------------------------------------------------

ScanFault PromptRenderer::Messages(Value value, int depth, TextBlocks& out) {
  simdjson::ondemand::array array;
  if (const auto error = value.get_array().get(array)) return FaultOf(error);
  for (auto result : array) {
    Value element;
    if (const auto error = std::move(result).get(element)) return FaultOf(error);
    out.Mark(PromptMark::kItem);
    if (const ScanFault fault = MessageItem(element, depth + 1, out)) return fault;
  }
  return {};
}

ScanFault PromptRenderer::MessageItem(Value value, int depth, TextBlocks& out) {
  Type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  if (type != Type::object) return Json(value, depth, &out);
  Object object;
  Fields fields;
  const KeysOfObject keys(names_);
  if (const ScanFault fault = OpenItem(value, depth, object)) return fault;
  if (const ScanFault fault = Sweep(object, fields)) return fault;
  if (!fields.too_many) return Message(object, fields, depth, out);
  if (const auto error = object.reset().error()) return FaultOf(error);
  return AsWritten(object, depth, &out);
}

ScanFault PromptRenderer::Message(Object& object, Fields& fields, int depth, TextBlocks& out) {
  char name = '0';
  for (const std::string_view key : kMessageFields) {
    ++name;
    Field* const field = fields.Find(key);
    // An absent field and one that is null are the same to a template.
    if (field == nullptr || field->type == Type::null) continue;
    field->done = true;
    out.Field(PromptMark::kField, name);
    ScanFault fault;
    if (!field->IsContainer()) {
      fault = Token(field->type, field->token, &out);
    } else {
      Value value;
      fault = Reopen(object, *field, value);
      if (!fault && key == kContent) {
        fault = Content(value, depth + 1, out);
      } else if (!fault) {
        fault = Items(value, depth + 1, 2, out);
      }
    }
    if (fault) return fault;
  }
  return CheckRest(object, fields, depth);
}

ScanFault PromptRenderer::UserMessage(Value value, TextBlocks& out) {
  out.Mark(PromptMark::kItem);
  out.Field(PromptMark::kField, kRoleName);
  out.Mark(PromptMark::kText);
  out.Text("user");
  out.Field(PromptMark::kField, kContentName);
  return Json(value, 2, &out);
}

ScanFault PromptRenderer::InputItems(Value value, int depth, TextBlocks& out) {
  simdjson::ondemand::array array;
  if (const auto error = value.get_array().get(array)) return FaultOf(error);
  for (auto result : array) {
    Value element;
    if (const auto error = std::move(result).get(element)) return FaultOf(error);
    out.Mark(PromptMark::kItem);
    if (const ScanFault fault = InputItem(element, depth + 1, out)) return fault;
  }
  return {};
}

ScanFault PromptRenderer::InputItem(Value value, int depth, TextBlocks& out) {
  Type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  if (type != Type::object) return Json(value, depth, &out);
  Object object;
  Fields fields;
  const KeysOfObject keys(names_);
  if (const ScanFault fault = OpenItem(value, depth, object)) return fault;
  if (const ScanFault fault = Sweep(object, fields)) return fault;
  if (!fields.too_many && fields.Find("role") != nullptr) {
    return Message(object, fields, depth, out);
  }
  // A call, its output, a reasoning: what the server named it and how far it came isn't prompt.
  for (const std::string_view key : {"id", "status"}) {
    Field* const field = fields.Find(key);
    if (field == nullptr || field->IsContainer()) continue;
    if (const ScanFault fault = Token(field->type, field->token, nullptr)) return fault;
    field->done = true;
  }
  return SortedFields(object, fields, depth, 2, out);
}

ScanFault PromptRenderer::Content(Value value, int depth, TextBlocks& out) {
  Type type;
  if (const auto error = value.type().get(type)) return FaultOf(error);
  if (type != Type::array) return Sorted(value, depth, 1, out);
  simdjson::ondemand::array array;
  if (const auto error = value.get_array().get(array)) return FaultOf(error);
  for (auto result : array) {
    Value element;
    if (const auto error = std::move(result).get(element)) return FaultOf(error);
    if (const ScanFault fault = Part(element, depth + 1, out)) return fault;
  }
  return {};
}

ScanFault PromptRenderer::Part(Value value, int depth, TextBlocks& out) {
  Type part_type;
  if (const auto error = value.type().get(part_type)) return FaultOf(error);
  if (part_type != Type::object) return Json(value, depth, &out);
  Object object;
  Fields fields;
  const KeysOfObject keys(names_);
  if (const ScanFault fault = OpenItem(value, depth, object)) return fault;
  if (const ScanFault fault = Sweep(object, fields)) return fault;
  std::string_view type;
  if (const Field* const field = fields.Find("type"); field != nullptr) {
    type = StringInside(field->token).value_or("");
  }
  Field* const text = fields.Find("text");
  if (!fields.too_many && text != nullptr && text->type == Type::string &&
      (type.empty() || IsTextType(type))) {
    text->done = true;
    if (const ScanFault fault = Token(text->type, text->token, &out)) return fault;
    return CheckRest(object, fields, depth);
  }
  bool media = IsMedia(type);
  for (std::size_t i = 0; i < fields.count; ++i) media = media || IsMedia(fields.list[i].key);
  if (!media) return SortedFields(object, fields, depth, 2, out);
  // An image has a megabyte of base64 and a thousand tokens: only a hash of it is in the prompt.
  ++media_items_;
  media_.Clear();
  if (const ScanFault fault = SortedFields(object, fields, depth, 2, media_)) return fault;
  out.Mark(PromptMark::kMedia);
  out.Number(media_.Digest());
  return {};
}

}  // namespace sublet
