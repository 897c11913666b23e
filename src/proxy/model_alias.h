// proxy/model_alias.h
//
// Models under other names: what a client calls a model, made into what the replicas call it.
//
//   ApplyAliases({{"gpt-4o", "meta-llama/Llama-3.1-8B-Instruct"}}, body);
//
// The name in the body is changed, since an engine refuses one that it doesn't know. Nothing else
// of the body is touched, and a body that isn't a JSON object stays as it is. It happens before the
// prompt is scanned, so that one text has one hash under all names of a model.
//
// Thread safety: pure.
#pragma once

#include <map>
#include <string>

namespace sublet {

using ModelAliases = std::map<std::string, std::string, std::less<>>;

// Whether a name was changed: the value of "model" at the top level, where it is an alias. A name
// with escapes in it (\u0061) is none.
bool ApplyAliases(const ModelAliases& aliases, std::string& body);

}  // namespace sublet
