// exe/simulated_engines.h
//
// The engines without a model that a route file asks for, within this process.
//
//   const std::unique_ptr<SimulatedEngines> engines = MakeSimulatedEngines();
//   hooks.engines = engines.get();
//
// They run on a thread of their own, listen on free loopback ports, and publish real KV events.
// Those that name one `gpu` in their share slow each other as their shares overlap.
//
// Thread safety: one thread at a time.
#pragma once

#include <memory>

#include "proxy/route_service.h"

namespace sublet {

std::unique_ptr<SimulatedEngines> MakeSimulatedEngines();

}  // namespace sublet
