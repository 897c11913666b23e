// measure/worker.h
//
// The other side of crew.h: what a worker process does.
//
// It has a CUDA context from its first command ("open") until the channel closes, and in between
// prepares workloads, runs rounds, allocates or misbehaves as it is told. Errors go back as
// answers; the process lives on.
//
// Thread safety: one a process, from its main thread.
#pragma once

#include "base/file_descriptor.h"
#include "base/result.h"

namespace sublet {

// Serves until the lab closes the channel. Fails where it could not even do that.
Status ServeAsWorker(FileDescriptor channel, FileDescriptor line);

}  // namespace sublet
