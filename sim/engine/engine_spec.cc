#include "engine/engine_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace sublet {
namespace {

constexpr std::array kSettings = {
    EngineSetting{"name", "what x-sim-engine says (default: the model's)"},
    EngineSetting{"model", "the model's name (default: demo)"},
    EngineSetting{"lora", "an adapter, served as a model of that name; may be given again"},
    EngineSetting{"address", "where to listen (default: 127.0.0.1)"},
    EngineSetting{"port", "0, the default: any free one"},
    EngineSetting{"kv-blocks", "size of the KV cache, in blocks (default: 4096)"},
    EngineSetting{"block-tokens", "tokens in a block (default: 16)"},
    EngineSetting{"prefill-rate", "prompt tokens a second, alone (default: 8000)"},
    EngineSetting{"step-ms", "what any step takes, besides (default: 4)"},
    EngineSetting{"decode-ms", "what each decoding sequence adds to a step (default: 0.25)"},
    EngineSetting{"step-tokens", "tokens in a step, at most (default: 8192)"},
    EngineSetting{"sequences", "sequences in a step, at most (default: 256)"},
    EngineSetting{"context", "prompt and output together, at most (default: the cache)"},
    EngineSetting{"answer-tokens", "length of an answer that isn't limited (default: 64)"},
    EngineSetting{"prefix-caching", "1 or 0 (default: 1)"},
    EngineSetting{"instant", "1: answers without an engine, for a proxy's benchmarks"},
    EngineSetting{"seed", "of the answers' words (default: 1)"},
    EngineSetting{"gpu", "a name; engines of one name share a GPU"},
    EngineSetting{"sm", "percent of its GPU's SMs (default: uncapped)"},
    EngineSetting{"bandwidth", "percent of its GPU's bandwidth in decode (default: 60)"},
    EngineSetting{"kv-events-port", "publish KV events there; 0: any free port"},
    EngineSetting{"replay-port", "answer for lost KV events there; 0: any free port"},
    EngineSetting{"kv-events-topic", "the events' topic (default: none)"},
    EngineSetting{"kv-events-encoding",
                  "1: arrays, 2: arrays of maps (the default), 3: maps; by vLLM's age"},
};

// A number within bounds, of any arithmetic type; false where it isn't.
template <typename Number>
bool Read(std::string_view text, double least, double most, Number& out) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  if (!(value >= least && value <= most)) return false;
  if (std::is_integral_v<Number> && value != std::floor(value)) return false;
  out = static_cast<Number>(value);
  return true;
}

template <typename Number>
bool Read(std::string_view text, double least, double most, std::optional<Number>& out) {
  Number value{};
  if (!Read(text, least, most, value)) return false;
  out = value;
  return true;
}

bool ReadText(std::string_view text, std::string& out) {
  out = text;
  return !text.empty();
}

constexpr double kPortMax = 65535;
constexpr double kLarge = 1e9;  // Of anything that is counted: a cache of it takes 32 GB here.

bool SetOfServer(EngineServerOptions& server, std::string_view name, std::string_view value) {
  if (name == "name") return ReadText(value, server.name);
  if (name == "lora") return ReadText(value, server.loras.emplace_back());
  if (name == "address") return ReadText(value, server.address);
  if (name == "port") return Read(value, 0, kPortMax, server.port);
  if (name == "context") return Read(value, 1, kLarge, server.context_tokens_max);
  if (name == "answer-tokens") return Read(value, 1, kLarge, server.answer_tokens);
  if (name == "instant") return Read(value, 0, 1, server.instant);
  return false;
}

bool SetOfEngine(EngineOptions& engine, std::string_view name, std::string_view value) {
  if (name == "model") return ReadText(value, engine.model);
  if (name == "kv-blocks") return Read(value, 1, kLarge, engine.kv_blocks);
  if (name == "block-tokens") return Read(value, 1, 65536, engine.block_tokens);
  if (name == "prefill-rate") return Read(value, 1e-3, 1e12, engine.prefill_tokens_per_second);
  if (name == "step-ms") return Read(value, 1e-3, kLarge, engine.step_overhead_ms);
  if (name == "decode-ms") return Read(value, 0, kLarge, engine.decode_ms_a_sequence);
  if (name == "step-tokens") return Read(value, 1, kLarge, engine.step_tokens);
  if (name == "sequences") return Read(value, 1, kLarge, engine.sequences_max);
  if (name == "prefix-caching") return Read(value, 0, 1, engine.prefix_caching);
  if (name == "seed") return Read(value, 0, kLarge, engine.seed);
  if (name == "sm") return Read(value, 0.1, 100, engine.share.sm_percent);
  if (name == "bandwidth") return Read(value, 0, 100, engine.share.bandwidth_percent);
  return false;
}

bool SetOfSpec(EngineSpec& spec, std::string_view name, std::string_view value) {
  if (name == "gpu") return ReadText(value, spec.gpu);
  if (name == "kv-events-port") return Read(value, 0, kPortMax, spec.events_port);
  if (name == "replay-port") return Read(value, 0, kPortMax, spec.replay_port);
  if (name == "kv-events-encoding") {
    int number = 0;
    if (!Read(value, 1, 3, number)) return false;
    constexpr std::array kEncodings = {KvEncoding::kArrays, KvEncoding::kArrayOfMaps,
                                       KvEncoding::kMaps};
    spec.events_encoding = kEncodings[static_cast<std::size_t>(number - 1)];
    return true;
  }
  if (name == "kv-events-topic") return ReadText(value, spec.events_topic);
  return false;
}

}  // namespace

std::span<const EngineSetting> EngineSpec::Settings() {
  return kSettings;
}

Status EngineSpec::Set(std::string_view name, std::string_view value) {
  const bool known = std::any_of(kSettings.begin(), kSettings.end(),
                                 [&](const EngineSetting& each) { return each.name == name; });
  if (!known) {
    return Fail(ErrorCode::kUsage, fmt::format("no such setting of an engine: {}", name),
                "--help has them all");
  }
  if (SetOfServer(server, name, value) || SetOfEngine(server.engine, name, value) ||
      SetOfSpec(*this, name, value)) {
    return {};
  }
  return Fail(ErrorCode::kUsage, fmt::format("not a value for {}: {}", name, value));
}

Result<EngineSpec> ParseEngineSpec(const EngineSpec& defaults, std::string_view text) {
  EngineSpec spec = defaults;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(','), text.size());
    const std::string_view setting = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::size_t equals = setting.find('=');
    if (equals == std::string_view::npos) {
      return Fail(ErrorCode::kUsage, fmt::format("not name=value: {}", setting));
    }
    RETURN_IF_ERROR(spec.Set(setting.substr(0, equals), setting.substr(equals + 1)));
  }
  return spec;
}

}  // namespace sublet
