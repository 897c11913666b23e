#include "cdi/spec.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

void PutText(Json& out, const char* key, const std::string& text) {
  if (!text.empty()) out[key] = text;
}

void PutTexts(Json& out, const char* key, const std::vector<std::string>& texts) {
  if (!texts.empty()) out[key] = texts;
}

template <typename T>
void PutNumber(Json& out, const char* key, const std::optional<T>& number) {
  if (number) out[key] = *number;
}

Json ToJson(const CdiDeviceNode& node) {
  Json out = {{"path", node.path}};
  PutText(out, "hostPath", node.host_path);
  PutText(out, "type", node.type);
  PutNumber(out, "major", node.major);
  PutNumber(out, "minor", node.minor);
  PutNumber(out, "fileMode", node.file_mode);
  PutText(out, "permissions", node.permissions);
  PutNumber(out, "uid", node.uid);
  PutNumber(out, "gid", node.gid);
  return out;
}

Json ToJson(const CdiMount& mount) {
  Json out = {{"hostPath", mount.host_path}, {"containerPath", mount.container_path}};
  PutText(out, "type", mount.type);
  PutTexts(out, "options", mount.options);
  return out;
}

Json ToJson(const CdiHook& hook) {
  Json out = {{"hookName", hook.hook_name}, {"path", hook.path}};
  PutTexts(out, "args", hook.args);
  PutTexts(out, "env", hook.env);
  PutNumber(out, "timeout", hook.timeout_s);
  return out;
}

template <typename T>
void PutList(Json& out, const char* key, const std::vector<T>& values) {
  if (values.empty()) return;
  Json& list = out[key] = Json::array();
  for (const T& value : values) list.push_back(ToJson(value));
}

Json ToJson(const CdiEdits& edits) {
  Json out = Json::object();
  PutTexts(out, "env", edits.env);
  PutList(out, "deviceNodes", edits.device_nodes);
  PutList(out, "mounts", edits.mounts);
  PutList(out, "hooks", edits.hooks);
  return out;
}

void PutAnnotations(Json& out, const std::map<std::string, std::string>& annotations) {
  if (!annotations.empty()) out["annotations"] = annotations;
}

}  // namespace

std::string QualifiedCdiName(std::string_view vendor, std::string_view class_name,
                             std::string_view device) {
  return fmt::format("{}/{}={}", vendor, class_name, device);
}

Json CdiSpecToJson(const CdiSpec& spec) {
  Json out = {{"cdiVersion", spec.version}, {"kind", spec.kind()}};
  PutAnnotations(out, spec.annotations);
  Json& devices = out["devices"] = Json::array();
  for (const CdiDevice& device : spec.devices) {
    Json one = {{"name", device.name}};
    PutAnnotations(one, device.annotations);
    one["containerEdits"] = ToJson(device.edits);
    devices.push_back(std::move(one));
  }
  if (!spec.edits.empty()) out["containerEdits"] = ToJson(spec.edits);
  return out;
}

std::string CdiSpecText(const CdiSpec& spec) {
  return CdiSpecToJson(spec).dump(2) + "\n";
}

}  // namespace sublet
