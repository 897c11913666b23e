// sim/engine/engine_spec.h
//
// One engine of the program sublet-sim-engine, as its command line has it.
//
//   EngineSpec spec;                                             // The defaults.
//   RETURN_IF_ERROR(spec.Set("kv-blocks", "1600"));              // --kv-blocks 1600
//   ASSIGN_OR_RETURN(auto chat, ParseEngineSpec(spec, "name=chat,port=8001,sm=60,gpu=a"));
//
// EngineSpec::Settings() has all names with what they mean.
//
// Thread safety: values.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "engine/engine_server.h"

namespace sublet {

struct EngineSetting {
  std::string_view name;
  std::string_view help;
};

struct EngineSpec {
  EngineServerOptions server = {};
  std::string gpu = {};                 // Engines of one name share a GPU; empty: one of its own.
  std::optional<int> events_port = {};  // Absent: no KV events. 0: any free one.
  std::optional<int> replay_port = {};
  std::string events_topic = {};
  KvEncoding events_encoding = KvEncoding::kArrayOfMaps;

  // Fails with kUsage for a name that doesn't exist, or a value that isn't one for it.
  Status Set(std::string_view name, std::string_view value);
  static std::span<const EngineSetting> Settings();
};

// `text`: "name=value,name=value"; what it doesn't say is as in `defaults`.
Result<EngineSpec> ParseEngineSpec(const EngineSpec& defaults, std::string_view text);

}  // namespace sublet
