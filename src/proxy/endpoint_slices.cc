#include "proxy/endpoint_slices.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "model/http_url.h"

namespace sublet {
namespace {

using Json = nlohmann::json;

constexpr int kGone = 410;
constexpr int kPortMax = 65535;
constexpr std::size_t kSlicesMax =
    10'000;  // A million endpoints; more is an error of the selector.

tl::unexpected<Error> Unreadable(std::string_view what) {
  return Fail(ErrorCode::kInvalid, fmt::format("Kubernetes' API answers what isn't {}", what));
}

std::string TextIn(const Json& json, const char* key) {
  const auto at = json.find(key);
  return at != json.end() && at->is_string() ? at->get<std::string>() : std::string();
}

const Json& PartOf(const Json& json, const char* key) {
  static const Json kNothing = Json::object();
  const auto at = json.find(key);
  return at != json.end() && at->is_object() ? *at : kNothing;
}

const Json& ListIn(const Json& json, const char* key) {
  static const Json kNothing = Json::array();
  const auto at = json.find(key);
  return at != json.end() && at->is_array() ? *at : kNothing;
}

// Absent means what the API says it means.
bool FlagIn(const Json& json, const char* key, bool absent) {
  const auto at = json.find(key);
  return at != json.end() && at->is_boolean() ? at->get<bool>() : absent;
}

EndpointSlice ReadSlice(const Json& json) {
  EndpointSlice slice;
  slice.ipv6 = TextIn(json, "addressType") == "IPv6";
  for (const Json& port : ListIn(json, "ports")) {
    const auto number = port.is_object() ? port.find("port") : port.end();
    if (!port.is_object() || number == port.end() || !number->is_number_integer()) continue;
    const auto at = number->get<std::int64_t>();
    if (at >= 1 && at <= kPortMax) {
      slice.ports.push_back({TextIn(port, "name"), static_cast<int>(at)});
    }
  }
  for (const Json& endpoint : ListIn(json, "endpoints")) {
    if (!endpoint.is_object()) continue;
    const Json& addresses = ListIn(endpoint, "addresses");
    if (addresses.empty() || !addresses[0].is_string()) continue;
    const Json& conditions = PartOf(endpoint, "conditions");
    SliceEndpoint at;
    at.pod = TextIn(PartOf(endpoint, "targetRef"), "name");
    at.address = addresses[0].get<std::string>();
    at.ready = FlagIn(conditions, "ready", true) && !FlagIn(conditions, "terminating", false);
    slice.endpoints.push_back(std::move(at));
  }
  return slice;
}

std::string NameIn(const Json& json) {
  return TextIn(PartOf(json, "metadata"), "name");
}

std::optional<int> PortIn(const EndpointSlice& slice, const std::string& wanted) {
  if (wanted.empty()) {
    if (slice.ports.size() != 1) return std::nullopt;
    return slice.ports[0].port;
  }
  int number = 0;
  const char* const end = wanted.data() + wanted.size();
  const auto parsed = std::from_chars(wanted.data(), end, number);
  if (parsed.ec == std::errc() && parsed.ptr == end) return number;
  for (const SlicePort& port : slice.ports) {
    if (port.name == wanted) return port.port;
  }
  return std::nullopt;
}

std::string EndpointAt(const std::string& address, int port) {
  if (port == 0) return "";
  return "tcp://" + HttpUrl{.host = address, .port = port, .path = {}}.Authority();
}

ReplicaSpec SpecOf(const SliceEndpoint& endpoint, int port, const KubernetesDiscovery& wanted) {
  const HttpUrl url{.tls = wanted.tls, .host = endpoint.address, .port = port, .path = {}};
  ReplicaSpec spec;
  spec.name = endpoint.pod.empty() ? url.Authority() : endpoint.pod;
  spec.url = url.Text();
  spec.models = wanted.models;
  spec.tenant = wanted.tenant;
  spec.source = "kubernetes";
  if (wanted.kv_events.port != 0) {
    spec.kv_events =
        KvEventSource{.endpoint = EndpointAt(endpoint.address, wanted.kv_events.port),
                      .replay_endpoint = EndpointAt(endpoint.address, wanted.kv_events.replay_port),
                      .topic = wanted.kv_events.topic,
                      .ranks = 1};
  }
  return spec;
}

}  // namespace

Status EndpointSlices::TakePage(std::string_view body) {
  const Json json = Json::parse(body, nullptr, false);
  if (!json.is_object() || TextIn(json, "kind") != "EndpointSliceList") {
    return Unreadable("a list of EndpointSlices");
  }
  const Json& metadata = PartOf(json, "metadata");
  const std::string version = TextIn(metadata, "resourceVersion");
  if (version.empty()) return Unreadable("a list with a version");
  for (const Json& item : ListIn(json, "items")) {
    if (!item.is_object() || NameIn(item).empty()) return Unreadable("a list of named slices");
    pages_[NameIn(item)] = ReadSlice(item);
  }
  if (pages_.size() > kSlicesMax) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("more than {} EndpointSlices: {}", kSlicesMax, pages_.size()),
                "the selector takes in more than one service");
  }
  next_page_ = TextIn(metadata, "continue");
  if (!next_page_.empty()) return {};
  slices_ = std::exchange(pages_, {});
  version_ = version;
  return {};
}

void EndpointSlices::ForgetPages() {
  pages_.clear();
  next_page_.clear();
}

Result<WatchEvent> EndpointSlices::TakeEvent(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return Unreadable("an event of a watch");
  const std::string type = TextIn(json, "type");
  const Json& object = PartOf(json, "object");
  if (type == "ERROR") {
    const auto code = object.find("code");
    if (code != object.end() && code->is_number_integer() && *code == kGone) {
      return WatchEvent::kExpired;
    }
    return Fail(ErrorCode::kUnavailable,
                fmt::format("Kubernetes ended the watch: {}", TextIn(object, "message")));
  }
  const std::string version = TextIn(PartOf(object, "metadata"), "resourceVersion");
  if (version.empty()) return Unreadable("an event with a version");
  const std::string name = NameIn(object);
  if (type != "BOOKMARK" && name.empty()) return Unreadable("an event of a named slice");
  if (type == "ADDED" || type == "MODIFIED") {
    if (slices_.size() >= kSlicesMax && !slices_.contains(name)) {
      return Fail(ErrorCode::kInvalid, fmt::format("more than {} EndpointSlices", kSlicesMax));
    }
    slices_[name] = ReadSlice(object);
  } else if (type == "DELETED") {
    slices_.erase(name);
  } else if (type != "BOOKMARK") {
    return Unreadable("an event of a kind that is known");
  }
  version_ = version;
  return type == "BOOKMARK" ? WatchEvent::kBookmark : WatchEvent::kChanged;
}

std::vector<ReplicaSpec> EndpointSlices::Replicas(const KubernetesDiscovery& wanted,
                                                  std::string& why) const {
  why.clear();
  std::map<std::string, ReplicaSpec> replicas;
  for (const bool ipv6 : {false, true}) {
    for (const auto& [name, slice] : slices_) {
      if (slice.ipv6 != ipv6 || slice.endpoints.empty()) continue;
      const std::optional<int> port = PortIn(slice, wanted.port);
      if (!port) {
        why = wanted.port.empty() ? fmt::format("{} has {} ports: set discovery.kubernetes.port",
                                                name, slice.ports.size())
                                  : fmt::format("{} has no port '{}'", name, wanted.port);
        continue;
      }
      for (const SliceEndpoint& endpoint : slice.endpoints) {
        if (!endpoint.ready) continue;
        ReplicaSpec spec = SpecOf(endpoint, *port, wanted);
        // An address that isn't one would be refused as a URL of the config's is.
        if (ParseHttpUrl(spec.url)) replicas.try_emplace(spec.name, spec);
      }
    }
  }
  std::vector<ReplicaSpec> list;
  list.reserve(replicas.size());
  for (auto& [name, spec] : replicas) list.push_back(std::move(spec));
  return list;
}

}  // namespace sublet
