// observe/tests/sample_status.h
//
// A node with a bit of everything, for the tests of what is shown of it.
#pragma once

#include "model/node_counters.h"
#include "model/node_status.h"

namespace sublet {

// Three GPUs: one with MPS domains, replicas and a foreign process, one with MIG and a `sublet
// run`, one that fell off the bus. Names that would steer a terminal or break a label.
NodeStatus SampleStatus();
NodeCounters SampleCounters();

// `count` shares of 3 GiB on one H200.
NodeStatus CrowdedStatus(int count);

}  // namespace sublet
